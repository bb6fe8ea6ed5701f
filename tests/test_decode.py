"""Bytes of every kind, whole and broken, become RGB images or one-line reasons."""

import contextlib
import io
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lwcl.data.decode import center_crop, decode, downscale
from lwcl.data.native import UnreadableImageError
from lwcl.models.pixel_format import PixelFormat


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 6 % 256, y * 8 % 256, (x + y) * 3 % 256], axis=2).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + (13).to_bytes(4, "big")
        + header
        + zlib.crc32(header).to_bytes(4, "big")
        + b"\0\0\1\0IDAT"
    )


WHOLE = {kind: encoded(photo(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}


@pytest.mark.parametrize("kind", WHOLE)
def test_every_format_becomes_rgb_of_its_size(kind: str) -> None:
    image = decode(WHOLE[kind])
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(photo())).mean() < 30


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = photo().convert("L")
    image = grey.convert("RGB").convert(mode) if mode in ("P", "CMYK", "YCbCr") else grey.convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    result = np.asarray(decode(encoded(image, kind)))
    assert result.shape == (30, 40, 3)
    assert np.ptp(result[:, :, 0]) > 100


def test_transparent_pixels_are_white_whatever_colour_they_hide() -> None:
    hidden = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert decode(encoded(hidden, "PNG")).getpixel((1, 1)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert decode(encoded(half, "PNG")).getpixel((1, 1)) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((0, 0), 1)
    image = decode(encoded(palette, "PNG", transparency=0))
    assert (image.getpixel((1, 1)), image.getpixel((0, 0))) == ((255, 255, 255), (50, 60, 70))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_where_it_is_asked_for_and_not_clipped(kind: str) -> None:
    deep = encoded(Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16)), kind)
    scaled = PixelFormat(high=65535, scaled=True)
    assert np.asarray(decode(deep, pixel_format=scaled))[0, :, 0].tolist() == [0, 1, 128, 255]
    with pytest.raises(UnreadableImageError, match="uint16, not of 8 bits: --bit-depth 8"):
        decode(deep)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    """The corner that the tag says is the top left one (EXIF 2.3, 4.6.4) becomes it."""
    marked = Image.new("RGB", (32, 16))
    corner = {1: (0, 0), 2: (16, 0), 3: (16, 8), 4: (0, 8), 5: (0, 0), 6: (0, 8), 7: (16, 8), 8: (16, 0)}[orientation]
    marked.paste((255, 255, 255), (*corner, corner[0] + 16, corner[1] + 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(marked, kind, exif=exif))
    assert image.size == ((32, 16) if orientation < 5 else (16, 32))
    pixels = np.asarray(image)[:, :, 0]
    height, width = pixels.shape
    assert pixels[: height // 2, : width // 2].mean() > 200
    assert pixels.mean() < 80


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(decode(moving))[4, 4].tolist()
        assert red > 200 > 50 > blue


@pytest.mark.parametrize("side", [9500, 13_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    start = time.process_time()
    with pytest.raises(UnreadableImageError, match="pixels are more than the limit"):
        decode(png_header(side, side) + b"\0" * 100)
    assert time.process_time() - start < 0.05


def test_the_limit_of_pixels_can_be_set() -> None:
    with pytest.raises(UnreadableImageError, match="40 x 30"):
        decode(WHOLE["PNG"], most_pixels=1199)
    assert decode(WHOLE["PNG"], most_pixels=1200).size == (40, 30)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n  <svg/>", "web page or drawing"),
        (b"\0\0\0 ftypavif", "AVIF"),
        (b"hello", "not a JPEG"),
        (b"RIFF\0\0\0\0WAVE", "not a JPEG"),
        (WHOLE["JPEG"][:300], "."),
        (WHOLE["PNG"][:-40], "truncated"),
        (WHOLE["PNG"][:33], "."),
        (b"\xff\xd8\xff" + b"\0" * 50, "."),
    ],
)
def test_what_is_no_whole_image_gets_a_reason_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode(data)
    assert caught.value.reason
    assert "\n" not in caught.value.reason


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4)), max_size=6))
def test_no_mutation_raises_anything_but_bad_image(kind: str, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(WHOLE[kind])
    for place, piece in edits:
        data[place % len(data) : place % len(data) + len(piece)] = piece
    with contextlib.suppress(UnreadableImageError):
        assert decode(bytes(data)).mode == "RGB"


@given(st.integers(8, 200), st.integers(8, 200), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_a_jpeg_never_comes_smaller_than_wanted(width: int, height: int, min_side: int) -> None:
    image = decode(encoded(Image.new("RGB", (width, height)), "JPEG"), min_side=min_side)
    assert min(image.size) >= min(min_side, width, height)


def test_a_large_jpeg_is_decoded_smaller() -> None:
    assert decode(encoded(photo(800, 600), "JPEG"), min_side=100).size == (200, 150)


@given(st.integers(1, 300), st.integers(1, 300), st.one_of(st.none(), st.integers(1, 64)))
@settings(max_examples=60, deadline=None)
def test_shrinking_keeps_the_short_side_and_limits_the_long_one(width: int, height: int, side: int | None) -> None:
    image = downscale(Image.new("RGB", (width, height)), side)
    assert min(image.size) == min(width, height, side or 10**9)
    assert max(image.size) <= 4 * min(image.size)


def test_a_very_long_image_keeps_its_middle() -> None:
    strip = Image.new("RGB", (100, 10))
    strip.paste((255, 255, 255), (40, 0, 60, 10))
    pixels = np.asarray(downscale(strip, 10))
    assert pixels.shape == (10, 40, 3)
    assert pixels[:, 10:30].min() == 255
    assert pixels[:, :10].max() == 0


@pytest.mark.parametrize(("width", "height"), [(100, 80), (63, 200), (256, 256), (20, 31)])
@pytest.mark.parametrize("size", [32, 56])
def test_the_plain_view_equals_resizing_then_cropping(width: int, height: int, size: int) -> None:
    image = photo(width, height)
    short = round(size / 0.875)
    whole = [round(side * short / min(width, height)) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in whole)
    resized = image.resize(whole, Image.Resampling.BICUBIC)
    slow = np.asarray(resized.crop((left, top, left + size, top + size))).astype(int)
    view = center_crop(image, size)
    assert view.shape == (size, size, 3)
    assert view.dtype == np.uint8
    difference = np.abs(view - slow)  # not nought: Pillow keeps the box in single precision
    assert difference.max() <= 4
    assert difference.mean() < 0.05


def with_large_metadata(form: str) -> bytes:
    """An image of four colours whose file also holds 2 MB of comments and a colour profile of 2 MB."""
    image, file, large = Image.new("RGB", (40, 30), (200, 30, 60)), io.BytesIO(), bytes(range(256)) * 8192
    notes = PngInfo()
    notes.add_text("a text", "x" * 2_000_000)
    notes.add_text("compressed", "x" * 2_000_000, zip=True)
    notes.add_itxt("of any language", "\N{GREEK SMALL LETTER ALPHA}" * 1_000_000, zip=True)
    options = {
        "PNG": {"pnginfo": notes, "icc_profile": large},
        "JPEG": {"comment": b"x" * 60_000, "icc_profile": large},
        "WEBP": {"lossless": True, "icc_profile": large, "xmp": large},
        "GIF": {"comment": b"x" * 2_000_000},
        "TIFF": {"description": "x" * 2_000_000, "icc_profile": large},
    }
    image.save(file, form, **options[form])
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_comments_and_colour_profiles_of_any_size_do_not_break_an_image(form):
    image = decode(with_large_metadata(form))
    assert image.size == (40, 30)
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 60)).max() < 12


def test_a_png_cut_within_a_comment_is_broken_and_says_so():
    with pytest.raises(UnreadableImageError):
        decode(with_large_metadata("PNG")[:1_000_000])


@pytest.mark.parametrize("compression", ["group4", "tiff_lzw", "tiff_adobe_deflate"])
def test_damaged_tiffs_put_nothing_on_the_screen(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(photo().convert("1" if compression == "group4" else "RGB"), "TIFF", compression=compression)
    for place in range(8, len(whole) - 4, max(3, len(whole) // 60)):
        with contextlib.suppress(UnreadableImageError):
            decode(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :])
    assert capfd.readouterr() == ("", "")
