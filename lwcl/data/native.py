"""Files as they are: how many channels, which numbers, how many pages; values keep their type and all bands (palettes
and CMYK become RGB).

Pillow opens a TIFF of two bands, of RGB and near-infrared, or of 16-bit RGB as 8-bit RGB without a word, so TIFFs that
are more than 8-bit RGB or one band are read by tifffile (BSD-3-Clause, 0.25 MB). NumPy arrays are (H, W), (H, W, C) or
(C, H, W), whichever axis is the shortest.
"""

import contextlib
import ctypes
import functools
import logging
import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lwcl.errors import DataError

Array = npt.NDArray[Any]  # (height, width, channels)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COMMENT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
PNG_DEPTH, PNG_COLOUR_TYPE, PNG_GRAY = 24, 25, 0  # offsets of bytes of the header, and the colour type of gray
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_SIGNATURE, NPZ_SIGNATURE = b"\x93NUMPY", b"PK\3\4"
ImageDecoder = Callable[[BytesIO], Image.Image]
# A decoder is chosen by the file's first bytes, not by Image.open, which only warns of decompression bombs.
DECODERS: tuple[tuple[bytes, ImageDecoder], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (PNG_SIGNATURE, PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    *((signature, TiffImageFile) for signature in TIFF_SIGNATURES),
)
GRAY_MODES = ("1", "L", "I", "F")  # with those that begin with I;16
MODE_CHANNELS = {"RGBA": 4, "RGBX": 4, "LA": 2, "La": 2, "RGBa": 4}
ORIENTATION = 0x0112  # the tag, of EXIF and TIFF
REDUCED_IMAGE = 1  # TIFF 6.0, NewSubfileType: a page that is a smaller version of another
MAX_ARRAY_BYTES = 512 * 2**20  # of an array in an .npz file, unpacked


class UnreadableImageError(DataError):
    """An image that cannot be decoded; `reason` is one line."""

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return self.what


class NativeImage(NamedTuple):
    """An image as its file has it; decoded by `pillow` (lazily), or by `load()`, which gives (height, width, C)."""

    size: tuple[int, int]  # width, height
    channels: int
    dtype: str  # of NumPy
    pages: int
    pillow: Image.Image | None
    load: Callable[[], Array]
    orientation: int = 1  # as in EXIF, where `load` does not apply it


def open_native(data: bytes) -> NativeImage:
    """The image in a file's bytes, not decoded yet; raises `UnreadableImageError`, or anything on damaged bytes."""
    if data.startswith(NPZ_SIGNATURE):
        data = only_array_of_npz(data)
    if data.startswith(NPY_SIGNATURE):
        return native_array(array_of_npy(data))
    if data.startswith(TIFF_SIGNATURES):
        return open_tiff(data)
    return native_pillow(find_decoder(data)(BytesIO(without_png_comments(data))), data)


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
    raise UnreadableImageError("not a JPEG, PNG, WebP, BMP, GIF or TIFF file, nor a NumPy array")


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


def native_pillow(image: Image.Image, data: bytes) -> NativeImage:
    """An image of Pillow's. A PNG of 16-bit colours says so: Pillow would drop the lower half of each value."""
    gray = image.mode in GRAY_MODES or image.mode.startswith("I;16")
    channels = 1 if gray else MODE_CHANNELS.get(image.mode, 3)
    depth = {"I": "int32", "F": "float32"}.get(image.mode, "uint16" if image.mode.startswith("I;16") else "uint8")
    if data.startswith(PNG_SIGNATURE) and data[PNG_DEPTH] == 16:
        depth = "uint16"
        if data[PNG_COLOUR_TYPE] != PNG_GRAY:
            return NativeImage(image.size, channels, depth, 1, image, refuse_deep_png)
    return NativeImage(image.size, channels, depth, 1, image, lambda: pillow_array(image))


def refuse_deep_png() -> Array:
    """Raises `UnreadableImageError`: Pillow gives 8 of the 16 bits."""
    raise UnreadableImageError("a PNG of 16-bit colours: save it as TIFF or .npy, or give --bit-depth 8")


def pillow_array(image: Image.Image) -> Array:
    """The values of an image of Pillow's; palettes and other colour spaces as RGB."""
    known = image.mode in ("L", "RGB", "RGBA", "LA", "I", "F") or image.mode.startswith("I;16")
    return with_channels(np.asarray(image if known else image.convert("L" if image.mode == "1" else "RGB")))


def with_channels(array: Array) -> Array:
    """(H, W) or (H, W, C) as (H, W, C)."""
    return array[:, :, None] if array.ndim == 2 else array


def open_tiff(data: bytes) -> NativeImage:
    """A TIFF: by Pillow where that loses nothing, else by tifffile."""
    import tifffile

    silence_tiff_libraries()
    with tifffile.TiffFile(BytesIO(data)) as file:
        pages = whole_pages(file)
        first = pages[0]
        samples, bits, size = first.samplesperpixel, first.bitspersample, (first.imagewidth, first.imagelength)
        dtype, turned = str(first.dtype), first.tags.valueof(ORIENTATION, default=1)
    planar = int(first.planarconfig) != 1 and samples > 1
    colour = int(first.photometric) in (2, 3, 5, 6)  # RGB, palette, CMYK, YCbCr
    alpha = len(first.extrasamples) == 1 and int(first.extrasamples[0]) in (1, 2)
    plain = samples == 1 or (bits == 8 and not planar and colour and (not first.extrasamples or alpha))
    if plain and len(pages) == 1:
        return native_pillow(TiffImageFile(BytesIO(data)), data)
    return NativeImage(size, samples, dtype, len(pages), None, lambda: tiff_array(data), int(turned))


@functools.cache
def silence_tiff_libraries() -> None:
    """tifffile, and the libtiff in Pillow, write what they think of a file on the screen: no more."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    for folder in ("../pillow.libs", ".dylibs"):  # of Pillow's wheels, on Linux and macOS
        for library in (Path(PIL.__file__).parent / folder).glob("libtiff*"):
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def whole_pages(file: Any) -> list[Any]:
    """The full-resolution pages of a TIFF (without overviews and thumbnails)."""
    return [page for page in file.pages if not int(page.aspage().subfiletype) & REDUCED_IMAGE] or [file.pages[0]]


def tiff_array(data: bytes) -> Array:
    """All values of a TIFF: (height, width, pages x samples), a page's samples together."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        whole = whole_pages(file)
        try:
            arrays = [page.asarray() for page in whole if page.shape == whole[0].shape]
        except KeyError as error:  # of a compression
            name = str(error).strip("\"'").split("requires")[0].strip()
            raise UnreadableImageError(f"compressed by {name}, which needs: pip install imagecodecs") from None
        axes = whole[0].axes
    arrays = [np.moveaxis(array, axes.index("S"), -1) if "S" in axes else array for array in arrays]
    return np.concatenate([with_channels(np.squeeze(array)) for array in arrays], axis=2)


def only_array_of_npz(data: bytes) -> bytes:
    """The only array of an .npz file, as .npy; raises `UnreadableImageError` if there are several."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) != 1 or members[0].file_size > MAX_ARRAY_BYTES:
            found = ", ".join(member.filename.removesuffix(".npy") for member in members[:5]) or "none"
            raise UnreadableImageError(f"{len(members)} arrays ({found}) where one of at most 512 MiB is an image")
        return archive.read(members[0])


def array_of_npy(data: bytes) -> Array:
    """The array of an .npy file, which allocates nothing; raises `ValueError` if it is shorter than it says."""
    file = BytesIO(data)
    shape, columns_first, dtype = read_npy_header(file)
    if dtype.hasobject:
        raise UnreadableImageError("an array of Python objects")
    array = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return array.reshape(shape, order="F" if columns_first else "C")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the array that a file begins with. Raises `ValueError`."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(file)


def native_array(array: Array) -> NativeImage:
    """An array (H, W), (H, W, C) or (C, H, W), whose shortest axis is that of the channels."""
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "uifb":
        raise UnreadableImageError(f"an array of {array.dtype} {array.shape}, not (H, W), (H, W, C) or (C, H, W)")
    if array.ndim == 3 and array.shape[0] < min(array.shape[1:]):
        array = np.moveaxis(array, 0, 2)
    array = with_channels(array.astype(np.uint8) if array.dtype.kind == "b" else array)
    height, width, channels = array.shape
    return NativeImage((width, height), channels, str(array.dtype), 1, None, lambda: array)
