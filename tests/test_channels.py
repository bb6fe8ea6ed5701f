"""Images of any channels, bits and pages: nothing is dropped in silence, and what is kept is kept to the last bit."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lwcl.config.plan import plan_pretrain
from lwcl.data.augment.views import make_views, normalise_images, sample_augment_params
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import ImageSet, as_input, open_images
from lwcl.data.decode import center_crop, decode
from lwcl.data.native import UnreadableImageError
from lwcl.data.statistics import measure_statistics
from lwcl.errors import DataError, UsageError
from lwcl.models.pixel_format import PixelFormat
from lwcl.training.resolve import resolve

RNG = np.random.default_rng(0)
SIDES = (12, 16)


def values(channels: int, dtype: str = "uint8", high: int | None = None) -> Any:
    high = high or int(np.iinfo(dtype).max)
    return RNG.integers(0, high, (*SIDES, channels), endpoint=True).astype(dtype)


def tiff(array: Any, **options: Any) -> bytes:
    file, bands = io.BytesIO(), array.ndim == 3 and array.shape[2] <= 13
    usual = {"photometric": "minisblack", "metadata": None} | ({"planarconfig": "contig"} if bands else {})
    tifffile.imwrite(file, array, **usual | options)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(array: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, image=array)
    return file.getvalue()


def folder_of(path: Path, files: dict[str, bytes]) -> str:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return str(path)


DROPPED = {
    "two bands": (tiff(values(2)), "2 channels, not 3: --channels"),
    "near-infrared": (tiff(values(4), photometric="rgb", extrasamples=["unspecified"]), "4 channels, not 3"),
    "many bands": (tiff(values(13)), "13 channels, not 3"),
    "16-bit RGB": (tiff(values(3, "uint16"), photometric="rgb"), "uint16, not of 8 bits: --bit-depth 8"),
    "16-bit gray": (tiff(values(1, "uint16")[:, :, 0]), "uint16, not of 8 bits"),
    "fractions": (tiff(values(1)[:, :, 0].astype(np.float32)), "float32, not of 8 bits"),
    "pages": (tiff(values(3).transpose(2, 0, 1)), "3 pages: --pages"),
    "an array of five": (npy(values(5)), "5 channels, not 3"),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_no_band_bit_or_page_is_dropped_in_silence(kind: str) -> None:
    data, reason = DROPPED[kind]
    with pytest.raises(UnreadableImageError, match=reason):
        decode(data)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_every_band_and_bit_of_a_tiff_is_read(channels: int, dtype: str, planar: str) -> None:
    array = values(channels, dtype)
    stored = array if planar == "contig" else array.transpose(2, 0, 1)
    shown = stored if channels > 1 else array[:, :, 0]
    data = tiff(
        shown, planarconfig=planar if channels > 1 else None, photometric="rgb" if channels == 3 else "minisblack"
    )
    high = float(np.iinfo(dtype).max)
    image = decode(data, pixel_format=PixelFormat(channels, dtype, high=high))
    assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("write", [npy, npz])
def test_an_array_is_channels_last_or_channels_first(write: Any) -> None:
    array = values(5, "uint16")
    wanted = PixelFormat(5, "uint16", high=65535)
    for shape in (array, array.transpose(2, 0, 1)):
        assert np.array_equal(np.asarray(decode(write(shape), pixel_format=wanted)), array)


def test_bands_are_taken_by_their_numbers_and_pages_as_channels() -> None:
    array = values(4)
    picked = decode(tiff(array), pixel_format=PixelFormat(3, bands=(4, 2, 1)))
    assert np.array_equal(np.asarray(picked), array[:, :, [3, 1, 0]])
    pages = tiff(array.transpose(2, 0, 1))
    assert np.array_equal(np.asarray(decode(pages, pixel_format=PixelFormat(4, pages="channels"))), array)
    first = np.asarray(decode(pages, pixel_format=PixelFormat(pages="first")))
    assert np.array_equal(first[:, :, 0], array[:, :, 0])
    with pytest.raises(UnreadableImageError, match="no band 5"):
        decode(tiff(array), pixel_format=PixelFormat(1, bands=(5,)))


def test_a_tiff_is_turned_upright() -> None:
    array = values(2)
    data = tiff(np.rot90(array), extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(np.asarray(decode(data, pixel_format=PixelFormat(2))), array)


@pytest.mark.parametrize(
    ("high", "bits", "found"), [(4095, None, 4095), (700, None, 1023), (65535, None, 65535), (700, 12, 4095)]
)
def test_the_range_of_values_is_found_in_the_images_and_said(
    tmp_path: Path, high: int, bits: int | None, found: int
) -> None:
    array = values(1, "uint16", high)[:, :, 0]
    array[0, 0] = high
    images = open_images([folder_of(tmp_path, {"a.tif": tiff(array)})], bit_depth=bits)
    assert (images.pixel_format.channels, images.pixel_format.dtype) == (1, "uint16")
    assert images.pixel_format.high == found
    assert "1 channel of 16 bits" in " ".join(images.notes)
    assert np.array_equal(np.asarray(images.image(0))[:, :, 0], array)


def test_whole_numbers_of_32_bits_are_read_by_their_range(tmp_path: Path) -> None:
    array = values(1, "int32", 255)[:, :, 0]
    images = open_images([folder_of(tmp_path, {"a.tif": tiff(array)})])
    assert np.array_equal(np.asarray(images.image(0))[:, :, 0], array)
    assert images.pixel_format.white == 255


def test_fractions_are_mapped_to_the_range_of_the_images_or_of_the_user(tmp_path: Path) -> None:
    array = np.linspace(-2, 2, 192, dtype=np.float32).reshape(SIDES)
    folder = folder_of(tmp_path, {"a.npy": npy(array)})
    pixels = np.asarray(open_images([folder]).image(0))
    assert (pixels.min(), pixels.max()) == (0, 65535)
    wide = open_images([folder], value_range="-4,4")
    assert np.allclose(np.asarray(wide.image(0))[:, :, 0] / 65535 * 8 - 4, array, atol=1e-4)


WRONG = {
    "bits": (
        {"a.tif": tiff(values(1, "uint16")[:, :, 0]), "b.tif": tiff(values(1)[:, :, 0])},
        {},
        "1 of 2 images .* uint16, the others of 8",
    ),
    "channels": ({"a.tif": tiff(values(2)), "b.tif": tiff(values(5))}, {}, "different channels: 1 with 2 channels, 1"),
    "number": ({"a.tif": tiff(values(4))}, {"channels": "3"}, "4 channels, which --channels 3"),
    "band": ({"a.tif": tiff(values(2))}, {"channels": "3,1"}, "2 channels, which --channels 3,1"),
    "pages": ({"a.tif": tiff(values(3).transpose(2, 0, 1))}, {}, "several pages"),
    "depth": ({"a.tif": tiff(values(2))}, {"bit_depth": 12}, "these have 8 bits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_images_that_need_a_choice_are_refused_with_the_choice(tmp_path: Path, case: str) -> None:
    files, reading, what = WRONG[case]
    with pytest.raises(DataError, match=what):
        open_images([folder_of(tmp_path, files)], **reading)


@pytest.mark.parametrize(("flag", "value"), [("channels", "0"), ("channels", "a,b"), ("value_range", "3,1")])
def test_a_wrong_choice_is_a_usage_error(tmp_path: Path, flag: str, value: str) -> None:
    folder = folder_of(tmp_path, {"a.tif": tiff(values(4, "uint16"))})
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')}: got"):
        open_images([folder], **{flag: value})


def test_usual_images_stay_rgb(tmp_path: Path) -> None:
    """Gray, transparent and coloured files of 8 bits are RGB as before, and nothing is said of them."""
    files = {}
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        file = io.BytesIO()
        Image.fromarray(values(3)).convert(mode).save(file, "PNG")
        files[f"{mode}.png"] = file.getvalue()
    images = open_images([folder_of(tmp_path, files | {"plain.tif": tiff(values(3), photometric="rgb")})])
    assert images.pixel_format == PixelFormat() and not images.notes
    assert all(isinstance(images.image(row), Image.Image) for row in range(len(images)))


def stack(tmp_path: Path, channels: int, dtype: str, count: int = 6) -> ImageSet:
    files = {f"{row}.npy": npy(values(channels, dtype)) for row in range(count)}
    return open_images([folder_of(tmp_path, files)])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_store_keeps_every_value(tmp_path: Path, dtype: str) -> None:
    images = stack(tmp_path, 4, dtype)
    store = CacheBuilder(images=images, short_side=None).pixel_store("ram")
    batch, heights, widths = store.batch(torch.tensor([3, 0]))
    assert (batch.shape, heights.tolist(), widths.tolist()) == ((2, 4, *SIDES), [12, 12], [16, 16])
    for row, position in enumerate((3, 0)):
        assert np.array_equal(batch[row].permute(1, 2, 0).numpy(), np.asarray(images.image(position)))


@pytest.mark.parametrize("channels", [1, 2, 12])
def test_views_of_deep_bands_are_those_of_8_bits_but_for_rounding(channels: int) -> None:
    """The same picture in 16 bits and in 8: crop, flip, jitter, dropped channel and blur agree."""
    from lwcl.config.augmentation import MOCO_V2, Augmentation

    pixels = torch.from_numpy(values(channels)).permute(2, 0, 1)[None].repeat(8, 1, 1, 1)
    place = {"index": torch.arange(8), "heights": torch.full((8,), 12), "widths": torch.full((8,), 16)}
    params = sample_augment_params(Augmentation(**MOCO_V2), size=8, seed=0, epoch=0, view=0, channels=channels, **place)
    look = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    shallow = make_views(pixels, params, 8, **look)
    deep = make_views((pixels.int() * 257).to(torch.uint16), params, 8, white=65535, **look)
    assert shallow.shape == (8, channels, 8, 8)
    assert float((shallow - deep).abs().max()) < 0.05
    alone = make_views(pixels[5:6], params.rows(slice(5, 6)), 8, **look)
    assert torch.equal(alone[0], shallow[5]), "the bits of a view depend on its batch"


def test_a_dropped_channel_is_its_mean_and_single_channels_are_never_dropped() -> None:
    from lwcl.config.augmentation import Augmentation

    place = {"index": torch.arange(400), "heights": torch.full((400,), 8), "widths": torch.full((400,), 8)}
    gray = Augmentation(gray_p=0.5)
    dropped = sample_augment_params(gray, size=8, seed=0, epoch=0, view=0, channels=4, **place).dropped
    assert set(dropped.tolist()) == {-1, 0, 1, 2, 3} and 100 < int((dropped < 0).sum()) < 300
    single = sample_augment_params(gray, size=8, seed=0, epoch=0, view=0, channels=1, **place).dropped
    assert set(single.tolist()) == {-1}


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    images = stack(tmp_path, 3, "uint16")
    every = np.concatenate([np.asarray(images.image(row)).reshape(-1, 3) for row in range(len(images))]) / 65535
    mean, std = measure_statistics(images)
    assert np.allclose(mean, every.mean(0), atol=1e-5) and np.allclose(std, every.std(0), atol=1e-5)
    view = torch.from_numpy(center_crop(images.image(0), 8)).permute(2, 0, 1)[None]
    assert normalise_images(view, mean=mean, std=std, white=65535).abs().max() < 4


def test_opencv_does_not_compute_the_views_of_bands(tmp_path: Path) -> None:
    images = stack(tmp_path, 4, "uint8")
    given = {"arch": "test_efficientnet", "device": "cpu", "batch_size": 2}
    assert resolve(plan_pretrain(given), images).options.view_backend == "tensor"
    with pytest.raises(UsageError, match="--view-backend opencv is for 8-bit RGB"):
        resolve(plan_pretrain(given | {"view_backend": "opencv"}), images)


def test_a_network_takes_its_own_pixels_from_other_images(tmp_path: Path) -> None:
    """An encoder that was trained on bands 2 and 1 finds them in images that are read as four."""
    images = stack(tmp_path, 4, "uint8")
    taken = as_input(images, PixelFormat(2, bands=(2, 1)))
    assert np.array_equal(np.asarray(taken.image(0)), np.asarray(images.image(0))[:, :, [1, 0]])
    assert as_input(images, dataclasses.replace(images.pixel_format, bands=(4, 3, 2, 1))) is images
