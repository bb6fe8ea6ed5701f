"""Decoding bytes to an upright image, and deterministic resizing and cropping, with Pillow (tifffile: see `native`).

torchvision's PNG decoder crashes the process on malformed files and its decoders are deprecated; Pillow raises.
No content of a file may raise anything but `UnreadableImageError`, and no file's declared size may be
allocated before it is
checked.
"""

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lwcl.data.band_image import Array, BandImage, Picture, as_photo
from lwcl.data.native import ORIENTATION, NativeImage, UnreadableImageError, open_native
from lwcl.formatting import plural
from lwcl.models.pixel_format import RGB, PixelFormat

DECODER_VERSION = 3  # of the functions below and the cache format: caches of other versions are ignored
MAX_IMAGE_PIXELS = 89_478_485  # Pillow's limit for "could be a decompression bomb": 256 MiB as RGB
MAX_ASPECT_RATIO = 4  # longer images are cropped to their centre
BACKGROUND_COLOUR = (255, 255, 255)
MAX_VALUES = 12 * MAX_IMAGE_PIXELS  # over all channels and pages
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's
CHANNELS_REMEDY = "--channels says how many, or which bands to take (4,3,2)"
DEPTH_REMEDY = "--bit-depth 8 scales deeper images down"
PAGES_REMEDY = "--pages first takes the first one, --pages channels takes each as a channel"
RANGE_REMEDY = "--value-range LOW,HIGH says which values are black and white"
PictureT = TypeVar("PictureT", Image.Image, BandImage, Picture)
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns of broken metadata on stderr; only the pixels matter here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(
    data: bytes,
    *,
    min_side: int | None = None,
    most_pixels: int = MAX_IMAGE_PIXELS,
    pixel_format: PixelFormat = RGB,
) -> Picture:
    """The image in a JPEG, PNG, WebP, BMP, GIF or TIFF file or a NumPy array, upright, in a pixel format.

    8-bit files become RGB where three channels are asked for: gray and palettes too, transparency composited on white.
    Of an animation, the first frame. With `min_side` a JPEG may be decoded at 1/2, 1/4 or 1/8 size, its short side no
    less than that many pixels. Raises `UnreadableImageError`, also where channels, bits or pages would be dropped that
    the format does not say to drop.
    """
    return read_native(lambda: open_native(data), min_side=min_side, most_pixels=most_pixels, pixel_format=pixel_format)


def read_native(
    open_image: Callable[[], NativeImage],
    *,
    min_side: int | None = None,
    most_pixels: int = MAX_IMAGE_PIXELS,
    pixel_format: PixelFormat = RGB,
) -> Picture:
    """An image that `open_image` gives, in a pixel format; see `decode`. Raises `UnreadableImageError`."""
    try:
        native = open_image()
        width, height = native.size
        if width * height > most_pixels or width * height * native.channels * native.pages > MAX_VALUES:
            raise UnreadableImageError(f"{width} x {height} pixels are more than the limit of {most_pixels}")
        return to_pixel_format(native, pixel_format, min_side)
    except UnreadableImageError:
        raise
    except (
        Exception
    ) as error:  # decoders raise nearly everything on hostile bytes: OSError, SyntaxError, struct.error, ...
        raise UnreadableImageError(one_line_message(error)) from None


def to_pixel_format(native: NativeImage, pixel_format: PixelFormat, min_side: int | None = None) -> Picture:
    """A file's image in a pixel format (see `decode`)."""
    image = native.pillow
    is_8_bit_colour = native.dtype == "uint8" or (isinstance(image, PngImageFile) and native.channels > 1)
    if image is not None and is_8_bit_colour and pixel_format.is_rgb and not takes_bands(native, pixel_format):
        if native.dtype != "uint8":
            check_depth(native.dtype, pixel_format)
        if min_side and isinstance(image, JpegImageFile):
            image.draft(None, (min_side, min_side))
        image.load()
        return apply_orientation(to_rgb(image), exif_orientation(image))
    check_pages(native, pixel_format)
    pixels = in_depth(in_channels(load_pages(native, pixel_format), pixel_format), pixel_format)
    orientation = native.orientation if image is None else exif_orientation(image)
    if pixel_format.is_rgb:
        return apply_orientation(Image.fromarray(np.ascontiguousarray(pixels)), orientation)
    return apply_orientation(BandImage(pixels), orientation)


def takes_bands(native: NativeImage, pixel_format: PixelFormat) -> bool:
    """Whether bands are chosen from an image that is more than gray."""
    return bool(pixel_format.bands) and native.channels > 1


def check_pages(native: NativeImage, pixel_format: PixelFormat) -> None:
    """Raises `UnreadableImageError` for several pages, unless the format says what they are."""
    if native.pages > 1 and pixel_format.pages == "refuse":
        raise UnreadableImageError(f"{native.pages} pages: {PAGES_REMEDY}")


def load_pages(native: NativeImage, pixel_format: PixelFormat) -> Array:
    """The values of an image, of its first page or of all; raises `UnreadableImageError` for pages of several sizes."""
    pixels = native.load()
    if pixel_format.pages == "first":
        return pixels[:, :, : native.channels]
    if pixels.shape[2] != native.channels * native.pages:
        raise UnreadableImageError(f"{native.pages} pages of different sizes: --pages first takes the first one")
    return pixels


def check_depth(dtype: str, pixel_format: PixelFormat) -> None:
    """Raises `UnreadableImageError` where values of a file's type would lose bits, or shrink beside deeper ones."""
    deep = dtype != "uint8"
    if deep and not pixel_format.scaled and pixel_format.dtype == "uint8":
        raise UnreadableImageError(f"values of {dtype}, not of 8 bits: {DEPTH_REMEDY}")
    if not deep and pixel_format.dtype == "uint16":
        raise UnreadableImageError(f"values of 8 bits among deeper ones: {DEPTH_REMEDY}")


def in_channels(pixels: Array, pixel_format: PixelFormat) -> Array:
    """The bands (H, W, C) of a file as the channels of a format; raises `UnreadableImageError` where some would drop.

    One band becomes three equal channels, and three become their luma where one is asked for.
    """
    found, wanted = pixels.shape[2], pixel_format.channels
    if pixel_format.bands and found > 1:
        if max(pixel_format.bands) > found:
            raise UnreadableImageError(f"{found} channels; there is no band {max(pixel_format.bands)}")
        return pixels[:, :, [band - 1 for band in pixel_format.bands]]
    if found == wanted:
        return pixels
    if (found, wanted) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (found, wanted) == (3, 1):
        luma: Array = pixels.astype(np.float64) @ LUMA
        return (luma if pixels.dtype.kind == "f" else np.rint(luma).astype(pixels.dtype))[:, :, None]
    raise UnreadableImageError(f"{plural(found, 'channel')}, not {wanted}: {CHANNELS_REMEDY}")


def in_depth(pixels: Array, pixel_format: PixelFormat) -> Array:
    """Values as a format stores them; raises `UnreadableImageError` for lost bits and for non-finite values."""
    check_depth(str(pixels.dtype), pixel_format)
    limit = np.iinfo(pixel_format.dtype).max
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= np.dtype(pixel_format.dtype).itemsize:
        return pixels
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableImageError("non-finite values")
    if pixel_format.scaled:
        values = (values - pixel_format.low) * (limit / (pixel_format.high - pixel_format.low))
    elif values.min() < 0 or values.max() > limit:
        raise UnreadableImageError(f"values from {values.min():.6g} to {values.max():.6g}: {RANGE_REMEDY}")
    return np.rint(values).clip(0, limit).astype(pixel_format.dtype)


def one_line_message(error: Exception) -> str:
    """An exception's message on one line of at most 120 characters, or its class name if it has none."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none, it is broken, or the decoder applied it already."""
    if "exif" not in image.info or isinstance(image, TiffImageFile):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as above: broken metadata does not make an image unusable
        return 1


def apply_orientation(image: PictureT, orientation: int) -> PictureT:
    """The image rotated or flipped to its EXIF orientation."""
    turn = TRANSPOSE_BY_ORIENTATION.get(orientation)
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded 8-bit image of any mode as RGB (see `decode`)."""
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, (*BACKGROUND_COLOUR, 255)), layers).convert("RGB")
    return image.convert("RGB")  # also detaches the image from its file, even if it is RGB already


def downscale(image: PictureT, short_side: int | None) -> PictureT:
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


def center_crop(image: Picture, size: int, *, crop_pct: float = 0.875) -> Array:
    """The view for evaluation, (size, size, channels): resize the short side to size / crop_pct, bicubic, and crop.

    Equals resizing the whole image and cropping at a whole pixel, but computes only the crop.
    """
    short = min(image.size)
    whole = [round(side * round(size / crop_pct) / short) for side in image.size]
    first = [round((side - size) / 2) for side in whole]
    scale = [image.width / whole[0], image.height / whole[1]]
    box = (first[0] * scale[0], first[1] * scale[1], (first[0] + size) * scale[0], (first[1] + size) * scale[1])
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def thumbnail(image: Picture, size: int) -> Array:
    """The centre of an image as RGB, uint8 (size, size, 3)."""
    pixels = center_crop(image, size)
    return as_photo(pixels) if isinstance(image, BandImage) else pixels
