"""Decoding bytes to an upright RGB image, and deterministic resizing and cropping, with Pillow only.

torchvision's PNG decoder crashes the process on malformed files and its decoders are deprecated; Pillow raises.
No content of a file may raise anything but `UnreadableImageError`, and no file's declared size may be
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

DECODER_VERSION = 2  # of the functions below and the cache format: caches of other versions are ignored
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's limit for "could be a decompression bomb": 256 MiB as RGB
MAX_ASPECT_RATIO = 4  # longer images are cropped to their centre
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
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COMMENT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ImageDecoder = Callable[[BytesIO], Image.Image]
# A decoder is chosen by the file's first bytes, not by Image.open, which only warns of decompression bombs.
DECODERS: tuple[tuple[bytes, ImageDecoder], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (PNG_SIGNATURE, PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
)

# Pillow warns of broken metadata on stderr; only the pixels matter here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadableImageError(DataError):
    """An image that cannot be decoded; `reason` is one line."""

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return self.what


def decode(data: bytes, *, min_side: int | None = None, most_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """The first frame of a JPEG, PNG, WebP, BMP, GIF or TIFF file as an upright RGB image.

    Transparency is composited on white; 16-bit grey is scaled to 8 bits, not clipped; EXIF orientation is applied. With
    `min_side` a JPEG may be decoded at 1/2, 1/4 or 1/8 size, its short side no less than that many pixels. Raises
    `UnreadableImageError`.
    """
    reader = find_decoder(data)
    try:
        image = reader(BytesIO(without_png_comments(data)))
        width, height = image.size
        if width * height > most_pixels:
            raise UnreadableImageError(f"{width} x {height} pixels are more than the limit of {most_pixels}")
        if min_side and isinstance(image, JpegImageFile):
            image.draft(None, (min_side, min_side))
        image.load()
        return apply_orientation(to_rgb(image), exif_orientation(image))
    except UnreadableImageError:
        raise
    except (
        Exception
    ) as error:  # decoders raise nearly everything on hostile bytes: OSError, SyntaxError, struct.error, ...
        raise UnreadableImageError(one_line_message(error)) from None


def find_decoder(data: bytes) -> ImageDecoder:
    """The decoder for a file's first bytes; raises `UnreadableImageError` that says what it looks like instead."""
    if not data:
        raise UnreadableImageError("the file is empty")
    for signature, reader in DECODERS:
        if data.startswith(signature) and (signature != b"RIFF" or data[8:12] == b"WEBP"):
            return reader
    if data[4:8] == b"ftyp":
        raise UnreadableImageError("AVIF and HEIC are not supported")
    if data.lstrip()[:1] == b"<":
        raise UnreadableImageError("a web page or drawing (HTML, XML, SVG), not an image")
    raise UnreadableImageError("not a JPEG, PNG, WebP, BMP, GIF or TIFF file")


def without_png_comments(data: bytes) -> bytes:
    """A PNG file without its texts and colour profile, which are no pixels; other files as they are.

    Pillow refuses those above 1 MB, compressed ones too (PNG specification, 3rd edition, 5.3: length, type, data, CRC).
    """
    if not data.startswith(PNG_SIGNATURE) or not any(kind in data for kind in PNG_COMMENT_CHUNKS):
        return data
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in PNG_COMMENT_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def one_line_message(error: Exception) -> str:
    """An exception's message on one line of at most 120 characters, or its class name if it has none."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none, it is broken, or the decoder applied it already."""
    if "exif" not in image.info or isinstance(image, TiffImageFile):
        return 1
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # as above: broken metadata does not make an image unusable
        return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The image rotated or flipped to its EXIF orientation."""
    turn = TRANSPOSE_BY_ORIENTATION.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB (see `decode`)."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, (*BACKGROUND_COLOUR, 255)), layers).convert("RGB")
    return image.convert("RGB")  # also detaches the image from its file, even if it is RGB already


def to_8_bits(grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Grey values of more than 8 bits scaled to 8: integers within 0..65535 by that range, others by their own range.

    Raises `UnreadableImageError` for non-finite values.
    """
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("non-finite values")
    low, high = values.min(), values.max()
    if grey.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = np.float64(0), np.float64(65535)
    scaled: npt.NDArray[np.float64] = (values - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(scaled).astype(np.uint8)


def downscale(image: Image.Image, short_side: int | None) -> Image.Image:
    """The image with a short side of at most `short_side` pixels (None: any), and a long one of at most 4 times that.

    Longer images are cropped to their centre. Never enlarged. Antialiased bilinear, after a box reduction to twice the
    target size (Pillow's `reducing_gap`).
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
    """An RGB image as JPEG, quality 95, without chroma subsampling.

    Photographs at 112 px need 8.2 kB instead of 37.6 kB as pixels, with a PSNR of 43.5 dB.
    """
    file = BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0, comment=b"")  # not the comment of the original file
    return file.getvalue()


def center_crop(image: Image.Image, size: int, *, crop_pct: float = 0.875) -> npt.NDArray[np.uint8]:
    """The view for evaluation, uint8 (size, size, 3): resize the short side to size / crop_pct, bicubic, and crop.

    Equals resizing the whole image and cropping at a whole pixel, but computes only the crop.
    """
    short = min(image.size)
    whole = [round(side * round(size / crop_pct) / short) for side in image.size]
    first = [round((side - size) / 2) for side in whole]
    scale = [image.width / whole[0], image.height / whole[1]]
    box = (first[0] * scale[0], first[1] * scale[1], (first[0] + size) * scale[0], (first[1] + size) * scale[1])
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
