"""Images of one file a band, whole sets in NumPy files, and what becomes of many channels to the end."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from PIL import Image
from runs import SMALL, ran

from lwcl.checkpoints.load import load_encoder
from lwcl.data.band_image import BandImage, as_photo
from lwcl.data.dataset import open_images
from lwcl.data.native import UnreadableImageError
from lwcl.data.sources import lists
from lwcl.data.sources.bands import name_without_band, parse_bands
from lwcl.errors import DataError, UsageError
from lwcl.models.pixel_format import PixelFormat

BANDS = ("02", "03", "04", "8A")
PATTERN = "*_B{02,03,04,8A}.tif"
SIDE = 16


def band_value(image: int, band: int) -> int:
    """What every pixel of a band is."""
    return 100 * image + 1000 * band


def write_bands(folder: Path, images: int = 6, bands: tuple[str, ...] = BANDS, side: int = SIDE) -> Path:
    """16-bit images of two classes, a file a band; the last band is half as large."""
    for image in range(images):
        own = folder / ("train", "val")[image % 3 == 2] / "ab"[image % 2]
        own.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(image).integers(0, 100, (side, side)).astype(np.uint16)
        for number, band in enumerate(bands):
            pixels = noise + band_value(image, number)
            tifffile.imwrite(own / f"s{image}_B{band}.tif", pixels[::2, ::2] if band == bands[-1] else pixels)
    return folder


@pytest.mark.parametrize(
    ("pattern", "file", "name"),
    [
        ("*_B{02,03}.tif", "train/a/s1_B03.tif", "train/a/s1.tif"),
        ("*_B{02,03}.tif", "train/a/s1_B04.tif", None),
        ("B{1..12}.tif", "s1/B11.tif", "s1.tif"),
        ("{red,nir}/*.png", "nir/a/x.png", "a/x.png"),
        ("{red,nir}/*.png", "train/red/a/x.png", "train/a/x.png"),
        ("*/T*_B{2,3}_10m.tif", "g/T33_B2_10m.tif", "g/33.tif"),
        ("S{1,2}/*/x*.tif", "S1/a/b/x9.tif", "a/b/x9.tif"),
    ],
)
def test_a_pattern_tells_which_image_a_file_belongs_to(pattern: str, file: str, name: str | None) -> None:
    parsed = parse_bands(pattern)
    found = parsed.files.fullmatch(file)
    assert (found and name_without_band(file, found, parsed)) == name


@pytest.mark.parametrize("pattern", ["*.tif", "*_B{02}{03}.tif", "*_B{02,02}.tif", "*_B{02,}.tif", "{a/b,c}.tif"])
def test_a_pattern_without_a_list_of_bands_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="--bands: got") as refused:
        parse_bands(pattern)
    assert "B{02,03,04,08}" in refused.value.remedy


def test_bands_are_stacked_in_their_order_and_smaller_ones_scaled(tmp_path: Path) -> None:
    images = open_images([str(write_bands(tmp_path))], "train", bands="*_B{8A,02,04}.tif")
    assert (len(images), images.classes, images.pixel_format.channels) == (4, ("a", "b"), 3)
    assert images.names[1] == "train/a/s4.tif" and images.labels.tolist() == [0, 0, 1, 1]
    pixels = np.asarray(images.image(1))
    assert pixels.shape == (SIDE, SIDE, 3) and pixels.dtype == np.uint16
    assert pixels.min((0, 1)).tolist() >= [band_value(4, band) for band in (3, 0, 2)]
    assert pixels.max((0, 1)).tolist() <= [band_value(4, band) + 100 for band in (3, 0, 2)]
    assert "6 images of 3 bands: 8A, 02, 04" in " ".join(images.notes)
    assert "Not used: 6 files" in " ".join(images.notes)


@pytest.mark.parametrize("pack", ["folder", "zip", "list"])
def test_bands_are_found_in_folders_archives_and_lists(tmp_path: Path, pack: str) -> None:
    data = str(write_bands(tmp_path / "set"))
    files = sorted(path.relative_to(tmp_path / "set") for path in (tmp_path / "set").rglob("*.tif"))
    if pack == "zip":
        with zipfile.ZipFile(data := str(tmp_path / "set.zip"), "w") as archive:
            for file in files:
                archive.write(tmp_path / "set" / file, file)
    if pack == "list":
        rows = [f"set/{file},{'xy'[int(file.stem[1]) % 2]},{file.parts[0]}" for file in files]
        Path(data := str(tmp_path / "list.csv")).write_text("\n".join(["path,label,split", *rows]))
    images = open_images([data], "val", bands=PATTERN)
    assert (len(images), images.classes) == (2, ("x", "y") if pack == "list" else ("a", "b"))
    assert np.asarray(images.image(0)).shape == (SIDE, SIDE, 4)


def test_a_changed_band_changes_the_fingerprint(tmp_path: Path) -> None:
    write_bands(tmp_path)
    before = open_images([str(tmp_path)], bands=PATTERN)
    assert open_images([str(tmp_path)], bands=PATTERN).fingerprint == before.fingerprint
    tifffile.imwrite(tmp_path / "train" / "a" / "s0_B03.tif", np.zeros((SIDE, 2 * SIDE), np.uint16))
    after = open_images([str(tmp_path)], bands=PATTERN)
    assert after.fingerprint != before.fingerprint and after.identity != before.identity


def test_an_image_without_a_band_is_broken_and_said(tmp_path: Path) -> None:
    write_bands(tmp_path)
    (tmp_path / "train" / "a" / "s0_B04.tif").unlink()
    images = open_images([str(tmp_path)], bands=PATTERN)
    assert "1 image without all bands, such as 'train/a/s0.tif': no 04." in images.notes
    with pytest.raises(UnreadableImageError, match="no file for band 04"):
        images.image(0)
    assert images.readable_image(0)[1][0].reason == "no file for band 04"


def test_a_file_of_several_bands_is_none(tmp_path: Path) -> None:
    write_bands(tmp_path)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "train" / "a" / "s0_B02.tif")
    with pytest.raises(UnreadableImageError, match="3 channels in the file of band 02, not 1"):
        open_images([str(tmp_path)], bands=PATTERN).image(0)


def test_files_that_no_pattern_matches_or_two_the_same_band_are_refused(tmp_path: Path) -> None:
    write_bands(tmp_path)
    with pytest.raises(UsageError, match="matches --bands"):
        open_images([str(tmp_path)], bands="*_C{1,2}.tif")
    for name in ("axb_B1.tif", "xab_B1.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match="are the same band of one image"):
        open_images([str(tmp_path)], bands="*x*_B{1,2}.tif")


def numpy_set(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


RNG = np.random.default_rng(0)
FLAT = RNG.integers(0, 256, (12, 20, 20), np.uint8)
DEEP = RNG.integers(0, 4000, (12, 4, 20, 20)).astype(np.uint16)
LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    ("arrays", "channels", "splits"),
    [
        (
            {"train_images": FLAT, "train_labels": LABELS[:, None], "test_images": FLAT[:5], "test_labels": LABELS[:5]},
            1,
            (12, 5),
        ),
        ({"x_train": DEEP, "y_train": LABELS, "x_test": DEEP[:6], "y_test": LABELS[:6]}, 4, (12, 6)),
        ({"images": DEEP, "labels": LABELS}, 4, (12, 12)),
    ],
)
def test_a_numpy_file_is_a_whole_set(
    tmp_path: Path, arrays: dict[str, Any], channels: int, splits: tuple[int, int]
) -> None:
    data = numpy_set(tmp_path / "set.npz", **arrays)
    train, val = (open_images([data], split) for split in ("train", "val"))
    assert (len(train), len(val)) == splits and train.classes == ("0", "1", "2")
    assert train.pixel_format.channels == channels
    whole = next(iter(arrays.values()))
    assert np.array_equal(
        np.asarray(train.image(7)).squeeze(), np.moveaxis(whole[7], 0, -1) if channels == 4 else whole[7]
    )
    assert train.labels.tolist() == LABELS.tolist()
    assert train.fingerprint != val.fingerprint or train.names == val.names


def test_an_array_of_images_is_read_where_it_lies(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", DEEP)
    images = open_images([str(tmp_path / "set.npy")])
    assert (len(images), images.labelled, images.pixel_format.channels) == (12, False, 4)
    parts: Any = images.readers[0]
    assert isinstance(parts.parts[0], np.memmap)


def test_numpy_files_that_leave_a_choice_or_are_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Several arrays of images: rgb, depth"):
        open_images([numpy_set(tmp_path / "two.npz", rgb=FLAT[..., None].repeat(3, 3), depth=DEEP)])
    np.save(tmp_path / "one.npy", FLAT[0])
    with pytest.raises(UsageError, match="is a single image"):
        open_images([str(tmp_path / "one.npy")])
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(DataError, match="broken"):
        open_images([str(tmp_path / "broken.npz")])


def test_a_list_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path,label\na.png,x\n")
    calls: list[bytes] = []
    parse = lists.parse_list
    monkeypatch.setattr(lists, "parse_list", lambda data: calls.append(data) or parse(data))
    assert open_images([str(tmp_path / "list.csv")]).classes == ("x",)
    assert len(calls) == 1


def test_pictures_of_bands_say_which_are_shown_and_stretch_them() -> None:
    assert PixelFormat(4).false_colours == "false colours: channels 1, 2 and 3 as red, green and blue"
    assert PixelFormat(3, bands=(4, 3, 2)).false_colours.startswith("false colours: channels 4, 3 and 2")
    assert PixelFormat(2).false_colours.startswith("false colours: channels 1, 2 and 2")
    assert PixelFormat(1).false_colours == PixelFormat().false_colours == ""
    dark = (np.arange(400).reshape(20, 20, 1) + np.array([0, 500])).astype(np.uint16)
    photo = as_photo(BandImage(dark).pixels)
    assert photo.shape == (20, 20, 3) and photo.dtype == np.uint8
    assert (photo.min(), photo.max()) == (0, 255) and np.array_equal(photo[..., 1], photo[..., 2])
    assert as_photo(np.full((4, 4, 1), 7, np.uint8)).max() == 0, "a channel without values is black"


@pytest.mark.parametrize("flags", [[], ["--bands", "*_C{1,2}.tif"], ["--bands", PATTERN, "--channels", "4,9"]])
def test_doctor_says_what_images_are_read_as(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwcl.commands import doctor

    monkeypatch.setattr(doctor, "check_speed", lambda options, images: iter(()))
    data = str(write_bands(tmp_path))
    assert ran(["doctor", "--data", data, "--bands", PATTERN, "--json"]) == 0
    checks = {check["check"]: check["result"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["pixels"] == "4 channels of 16 bits, for values of 0 to 4095"
    if flags:
        code = ran(["doctor", "--data", data, *flags, "--json"])
        assert code == (2 if "C{1,2}" in flags[1] else 4)
        assert "cannot train on these" in capsys.readouterr().out


def made_run(tmp_path: Path, name: str, *flags: str) -> Path:
    run = tmp_path / name
    assert ran(["pretrain", "--out", str(run), *SMALL, "--quiet", *flags]) == 0
    return run


@pytest.fixture(scope="module")
def band_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on four 16-bit bands of two sizes, a file each."""
    folder = tmp_path_factory.mktemp("bands")
    data = write_bands(folder / "set", images=24, side=40)
    return made_run(folder, "run", "--data", str(data), "--bands", PATTERN)


def test_a_network_of_four_bands_is_exported_in_int8_for_raw_pixels(band_run: Path, tmp_path: Path) -> None:
    """Calibrated on the run's own images, read as the run read them."""
    words = ["--format", "onnx", "--int8", "--with-preprocess", "--calibrate-images", "8", "--out", str(tmp_path / "x")]
    assert ran(["export", str(band_run), *words, "--quiet"]) == 0
    told = json.loads((tmp_path / "x" / "onnx.json").read_text())
    assert told["int8"]["as_run"]["mean"] > 0.9 and told["parity"]["relative"] < 1e-4
    images = open_images([str(band_run.parent / "set")], bands=PATTERN)
    loaded = load_encoder(str(band_run))
    size = loaded.input_spec.size
    pixels = np.asarray(images.image(0).resize((size, size)))[None]  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "model.onnx"))
    entry = session.get_inputs()[0]
    assert entry.shape[1:] == [size, size, 4]
    given = pixels.astype({"tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16}.get(entry.type, np.float32))
    found = session.run(None, {entry.name: given})[0]
    spec = loaded.input_spec
    normal = (
        torch.from_numpy(pixels.astype(np.float32)) / spec.pixel_format.white - torch.tensor(spec.mean)
    ) / torch.tensor(spec.std)
    wanted = loaded.encoder.eval().features(normal.permute(0, 3, 1, 2)).detach().numpy()
    assert np.allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("verb", ["knn", "probe", "diagnose-clustering"])
def test_a_run_of_bands_is_evaluated_on_its_own_images_as_it_read_them(
    band_run: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / verb
    assert ran([verb, str(band_run), "--out", str(out), "--no-random-init"]) == 0
    page = (out / "report.html").read_text()
    assert (
        "broken images" not in page or json.loads((out / "report.json").read_text())["facts"].get("broken images") == 0
    )
    if verb == "diagnose-clustering":
        assert "false colours: channels 1, 2 and 3" in page


def test_bands_are_embedded_and_searched(band_run: Path, tmp_path: Path) -> None:
    data, file = str(band_run.parent / "set"), str(tmp_path / "rows.npy")
    assert ran(["embed", str(band_run), "--data", data, "--bands", PATTERN, "--out", file, "--quiet"]) == 0
    assert np.isfinite(np.load(file)).all()
    found = tmp_path / "found"
    assert ran(["search", "train/a/s0.tif", "--in", file, "--out", str(found), "--quiet"]) == 0
    assert "<svg" in (found / "report.html").read_text(), "its thumbnails"


def test_the_report_of_a_run_shows_false_colours_and_says_so(band_run: Path) -> None:
    assert "false colours: channels 1, 2 and 3 as red, green and blue" in (band_run / "report.html").read_text()
