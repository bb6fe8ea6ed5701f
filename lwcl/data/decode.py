"""Bytes to an upright RGB image, and images to views that need no chance, with Pillow only.

torchvision's PNG decoder crashes the process on malformed files and its decoders are deprecated; Pillow raises.
Nothing that a file contains may raise anything but `UnreadableImageError`, and no file's declared size may be
allocated before
it is checked.
"""

import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lwcl.errors import DataError

DECODER_VERSION = 2  # of what the functions below return, and how it is kept: stores of another version are not used
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own limit for "could be a decompression bomb": 256 MiB as RGB
MAX_ASPECT_RATIO = 4  # an image longer than 4:1 is cut to its middle
BACKGROUND_COLOUR = (255, 255, 255)
EXIF_ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ImageDecoder = Callable[[BytesIO], Image.Image]
# A plugin is chosen by the file's first bytes, not through Image.open, which only warns of decompression bombs.
DECODERS: tuple[tuple[bytes, ImageDecoder], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)

# Pillow warns on standard error about broken metadata; whether the pixels can be read is what counts here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImageError(DataError):
    """One image that cannot be used; `reason` is one line."""

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return self.what


def decode(data: bytes, *, at_least: int | None = None, most_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The first frame of a JPEG, PNG, WebP, BMP, GIF or TIFF file as an upright RGB image.

    Transparency is composed on white; 16-bit grey is scaled to 8 bits, not clipped; EXIF orientation is applied. With
    `at_least` (pixels) a JPEG may come 2, 4 or 8 times smaller, its short side not below that. Raises
    `UnreadableImageError`.
    """
    reader = find_decoder(data)
    try:
        image = reader(BytesIO(data))
        width, height = image.size
        if width * height > most_pixels:
            raise UnreadableImageError(f"{width} x {height} pixels are more than the limit of {most_pixels}")
        if at_least and isinstance(image, JpegImageFile):
            image.draft(None, (at_least, at_least))
        image.load()
        return apply_orientation(to_rgb(image), exif_orientation(image))
    except UnreadableImageError:
        raise
    except (
        Exception
    ) as error:  # decoders raise nearly everything on hostile bytes: OSError, SyntaxError, struct.error, ...
        raise UnreadableImageError(one_line_message(error)) from None


def find_decoder(data: bytes) -> ImageDecoder:
    """The decoder that these first bytes ask for; raises `UnreadableImageError` that says what they look like
    instead."""
    if not data:
        raise UnreadableImageError("the file is empty")
    for signature, reader in DECODERS:
        if data.startswith(signature) and (signature != b"RIFF" or data[8:12] == b"WEBP"):
            return reader
    if data[4:8] == b"ftyp":
        raise UnreadableImageError("AVIF and HEIC files are not read")
    if data.lstrip()[:1] == b"<":
        raise UnreadableImageError("a web page or drawing (HTML, XML, SVG), not an image")
    raise UnreadableImageError("not a JPEG, PNG, WebP, BMP, GIF or TIFF file")


def one_line_message(error: Exception) -> str:
    """An exception's message in at most 120 characters of one line, or its name where it has none."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none, it is broken, or the reader has applied it."""
    if "exif" not in image.info or isinstance(image, TiffImageFile):
        return 1
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # as above: metadata never decides whether an image can be used
        return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned as its EXIF orientation asks."""
    turn = TRANSPOSE_BY_ORIENTATION.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB (see `decode`)."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, (*BACKGROUND_COLOUR, 255)), layers).convert("RGB")
    return image.convert("RGB")  # returns a plain Image, detached from the file, even when the mode is RGB already


def to_8_bits(grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey values of more than 8 bits as 8: 0..65535 by that range, what leaves it, or is no integer, by its own.

    Raises `UnreadableImageError` for values that are not finite.
    """
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("its values are not finite")
    low, high = values.min(), values.max()
    if grey.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = np.float64(0), np.float64(65535)
    scaled: npt.NDArray[np.float64] = (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(scaled).astype(np.uint8)


def downscale(image: Image.Image, short_side: int | None) -> Image.Image:
    """The image with its short side at most `short_side` pixels (None: any), its long one at most 4 times that.

    What is longer than 4:1 is cut to its middle. Never enlarged. Antialiased bilinear, after a box reduction down to
    twice the wanted size (Pillow's `reducing_gap`).
    """
    short = min(image.size)
    width, height = (min(side, MAX_ASPECT_RATIO * short) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    if (width, height) != image.size:
        image = image.crop((left, top, left + width, top + height))
    if short_side is None or short <= short_side:
        return image
    size = (round(width * short_side / short), round(height * short_side / short))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def encode_jpeg(image: Image.Image) -> bytes:
    """An RGB image as JPEG of quality 95, colours at full resolution.

    Photographs shrunk to 112 px take 8.2 kB, where their pixels take 37.6, and come back within 43.5 dB (PSNR).
    """
    file = BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0, comment=b"")  # not the one that its own file may have
    return file.getvalue()


def center_crop(image: Image.Image, size: int, *, crop_pct: float = 0.875) -> npt.NDArray[np.uint8]:
    """The view that judging uses, uint8 (size, size, 3): short side to round(size / crop_pct) bicubic, then the centre.

    Equals resizing the whole and cropping at a whole pixel, but computes only the part that is kept.
    """
    short = min(image.size)
    whole = [round(side * round(size / crop_pct) / short) for side in image.size]
    first = [round((side - size) / 2) for side in whole]
    scale = [image.width / whole[0], image.height / whole[1]]
    box = (first[0] * scale[0], first[1] * scale[1], (first[0] + size) * scale[0], (first[1] + size) * scale[1])
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
