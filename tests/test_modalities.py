"""A student that sees other images than its teacher: pairs, worse cameras, and a teacher of some of the channels."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL, ran

from lwcl.checkpoints.load import load_encoder
from lwcl.config.device_options import ExportOptions
from lwcl.config.teacher_options import parse_teacher_channels
from lwcl.data.band_image import BandImage
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import ImageSet, as_input, open_images
from lwcl.data.degrade import degrade, parse_student_view
from lwcl.data.loader import take_channels
from lwcl.data.pairs import match_names, pair_images, read_pairs, stack_images, with_student_view
from lwcl.errors import DataError, UsageError
from lwcl.metrics import cost
from lwcl.models.loaded import InputSpec, random_encoder
from lwcl.models.pixel_format import PixelFormat
from lwcl.reporting import plots

COUNT, SIDE = 20, 24
TINY = [
    "--arch",
    "test_efficientnet",
    "--image-size",
    "32",
    "--epochs",
    "1",
    "--batch-size",
    "5",
    "--threads",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
]
TEACHER = ["--teacher", "random/test_resnet", "--teacher-size", "32", "--teacher-precision", "fp32"]


@pytest.fixture(scope="module", autouse=True)
def _fast() -> Iterator[None]:
    """Nothing is drawn, and costs take one pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "figure_svg", lambda figure: "<svg/>")
        patch.setattr(cost, "TIMING_SECONDS", 0)
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in rgb/, and in deep/ 16-bit arrays whose value is the red of the picture times 16."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(COUNT):
        split, label = ("train", "val")[number % 4 == 3], "ab"[number % 2]
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        for kind in ("rgb", "deep"):
            (folder / kind / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "rgb" / split / label / f"{number:02}.png")
        np.save(folder / "deep" / split / label / f"{number:02}.npy", pixels[:, :, 0].astype(np.uint16) * 16)
    return folder


def opened(scenes: Path, kind: str) -> ImageSet:
    return open_images([str(scenes / kind)])


def test_names_match_up_to_the_ending_by_stem_or_by_a_table(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/3.png"]
    assert match_names(names, ["a/2.npy", "a/1.npy"], {}) == [1, 0, None]
    assert match_names(names, ["x/3.tif", "x/1.tif"], {}) == [1, None, 0]
    assert match_names(names, ["x/3.tif", "y/3.tif"], {}) == [None, None, None], "a stem that is not unique"
    table = tmp_path / "pairs.csv"
    table.write_text("# rgb,depth\na/1.png, d/9.npy\n")
    assert match_names(names, ["d/9.npy"], read_pairs(str(table))) == [0, None, None]
    table.write_text("a/1.png\n")
    with pytest.raises(UsageError, match="not two columns"):
        read_pairs(str(table))


def test_unpaired_images_are_named_and_left_out_and_too_many_end_the_run(scenes: Path) -> None:
    rgb, deep = opened(scenes, "rgb"), opened(scenes, "deep")
    paired = pair_images(rgb, deep.subset(range(1, COUNT)), {}, 0.05)
    assert len(paired) == COUNT - 1 and paired.partner is not None
    assert [Path(name).stem for name in paired.names] == [Path(name).stem for name in paired.partner.names]
    assert "Left out: 1 image without a partner" in " ".join(paired.notes)
    assert torch.equal(paired.labels, paired.partner.labels)
    assert pair_images(rgb, deep, {}, 0).fingerprint == rgb.fingerprint, "a teacher's cache serves all its students"
    assert pair_images(rgb, deep, {}, 0).whole_fingerprint != rgb.fingerprint
    with pytest.raises(DataError, match="5 of 20 images have no partner"):
        pair_images(rgb, deep.subset(range(5, COUNT)), {}, 0.05)


def test_both_images_of_a_pair_are_cut_alike(scenes: Path) -> None:
    """Red x 16 is the student's image: so it is in every crop, flipped or not."""
    from lwcl.config.augmentation import CROP_FLIP, Augmentation
    from lwcl.data.augment.views import make_views, sample_augment_params

    stacked = stack_images(pair_images(opened(scenes, "rgb"), opened(scenes, "deep"), {}, 0))
    images, heights, widths = (
        CacheBuilder(images=stacked, short_side=None).pixel_store("ram").batch(torch.arange(COUNT))
    )
    place = {"index": torch.arange(COUNT), "heights": heights, "widths": widths}
    views = []
    for channels, pixels in (((0, 1, 2), PixelFormat()), ((3,), PixelFormat(1, "uint16", high=4095))):
        spec = InputSpec(16, (0.0,) * len(channels), (1.0,) * len(channels), 1.0, pixels)
        params = sample_augment_params(
            Augmentation(**CROP_FLIP), size=16, seed=0, epoch=0, view=0, channels=len(channels), **place
        )
        views.append(make_views(take_channels(images, channels, spec), params, 16, **spec.normalisation))
    red, deep = views[0][:, 0] * 255, views[1][:, 0] * 4095 / 16
    assert params.flip.any() and not params.flip.all()
    assert float((red - deep).abs().max()) <= 1.01, "more than the rounding of 8-bit crops"


def test_a_partner_of_another_size_is_scaled(scenes: Path) -> None:
    class Small:
        def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> BandImage:
            return BandImage(np.full((12, 12, 1), row, np.uint8))

    small = dataclasses.replace(opened(scenes, "rgb"), readers=(Small(),), pixel_format=PixelFormat(1))
    stacked = stack_images(pair_images(opened(scenes, "rgb"), small, {}, 0))
    pixels = np.asarray(stacked.image(3))
    assert pixels.shape == (SIDE, SIDE, 4) and (pixels[:, :, 3] == 3).all()


@pytest.mark.parametrize(
    ("view", "channels"), [("gray", 1), ("edges", 1), ("jpeg:10", 3), ("size:8", 3), ("size:8+jpeg:5+gray", 1)]
)
def test_a_worse_camera_is_part_of_what_an_encoder_sees(scenes: Path, view: str, channels: int) -> None:
    images = opened(scenes, "rgb")
    own = with_student_view(images, view).partner
    assert own is not None and own.pixel_format.channels == channels
    shown = np.asarray(own.image(0))
    assert np.array_equal(shown, np.asarray(degrade(images.image(0), view)))  # type: ignore[arg-type]
    assert np.array_equal(shown, np.asarray(as_input(images, own.pixel_format).image(0)))
    assert shown.shape == (SIDE, SIDE, channels)


def test_a_small_sensor_has_so_many_different_columns_and_gray_is_the_luma() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))).convert("RGB")
    small = np.asarray(degrade(ramp, "size:8"))[0, :, 0].astype(int)
    assert np.abs(np.diff(np.diff(small)))[8:-8].max() <= 2, "enlarged smoothly"
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    assert np.asarray(degrade(red, "gray")).max() == round(0.299 * 200)


@pytest.mark.parametrize("text", ["grey", "jpeg", "jpeg:0", "jpeg:100", "size:2", "gray:3", "gray+jpeg:10", ""])
def test_a_wrong_view_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--student-view: got"):
        parse_student_view(text)


def test_wrong_teacher_channels_are_refused() -> None:
    assert parse_teacher_channels("3,2,1") == (3, 2, 1) and parse_teacher_channels("auto") == ()
    for text in ("", "0", "r,g,b"):
        with pytest.raises(UsageError, match="--teacher-channels: got"):
            parse_teacher_channels(text)


def words(scenes: Path, method: str, out: Path, *more: str) -> list[str]:
    verb = "compress" if method in ("1q", "2q", "regression") else "distill"
    given = ["--method", method, "--data", str(scenes / "rgb"), "--out", str(out)]
    return [verb, *given, *TINY, *TEACHER, "--quiet", *more]


@pytest.mark.parametrize("cache", ["off", "center", "views:2"])
@pytest.mark.parametrize("method", ["2q", "regression"])
def test_a_student_of_another_modality_is_trained_scored_and_exported(
    scenes: Path, tmp_path: Path, method: str, cache: str
) -> None:
    import timm

    out = tmp_path / "run"
    deep = ("--student-data", str(scenes / "deep"), "--teacher-cache", cache)
    assert ran(words(scenes, method, out, *deep)) == 0
    student = load_encoder(str(out))
    assert (student.encoder.channels, student.input_spec.pixel_format.dtype) == (1, "uint16")
    tables = json.loads((out / "report.json").read_text())["tables"]
    rows = next(table["rows"] for table in tables if table["title"] == "Student and teacher")
    assert [row[1] for row in rows] == ["student", "teacher", "untrained"]
    model = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True).eval()
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(images), student.encoder.eval().features(images))
    assert ran(["knn", str(out), "--quiet", "--out", str(tmp_path / "knn"), "--no-random-init"]) == 0


def test_a_student_of_a_worse_camera_is_judged_on_the_same_folder(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert ran(words(scenes, "2q", out, "--student-view", "gray")) == 0
    assert load_encoder(str(out)).input_spec.pixel_format == PixelFormat(1, view="gray")
    assert ran(["knn", str(out), "--data", str(scenes / "rgb"), "--quiet", "--out", str(tmp_path / "knn")]) == 0


def test_four_channels_from_training_to_timm(tmp_path: Path) -> None:
    """timm replaces the first layer of weights that are not of three channels, unless the export says otherwise."""
    import timm

    from lwcl.checkpoints.encoder_file import export_timm

    spec = InputSpec(32, (0.5,) * 4, (0.2,) * 4, 0.875, PixelFormat(4))
    encoder = random_encoder("test_efficientnet", spec, 0).encoder.eval()
    export_timm(tmp_path / "export", encoder, spec, {"origin": "lwcl"})
    images = torch.rand(2, 4, 32, 32)
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    assert torch.equal(model(images), encoder.features(images))
    again = load_encoder(str(tmp_path / "export"))
    assert again.input_spec == spec and torch.equal(again.encoder.eval().features(images), encoder.features(images))


@pytest.mark.parametrize(
    ("more", "code", "what"),
    [
        (("--student-view", "gray", "--student-data", "x"), 2, "exclude each other"),
        (("--pairs", "x.csv"), 2, "--pairs requires --student-data"),
        (("--student-view", "blur"), 2, "--student-view: got 'blur'"),
        (("--student-data", "EMPTY"), 4, "have no partner"),
        (("--teacher-channels", "1,2"), 2, "--teacher takes 3 channels; the images have 3"),
    ],
)
def test_wrong_uses_are_said_with_the_right_code(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], code: int, what: str
) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (24, 24)).save(tmp_path / "other" / "else.png")
    given = [str(tmp_path / "other") if word == "EMPTY" else word for word in more]
    assert ran(words(scenes, "2q", tmp_path / "run", *given)) == code
    assert what in " ".join(capsys.readouterr().err.split())


def test_a_teacher_of_three_sees_the_chosen_of_five_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rgb"
    for number in range(10):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        np.save(folder / "ab"[number % 2] / f"{number}.npy", np.full((24, 24, 5), 20 * number, np.uint8))
    assert ran(words(tmp_path, "2q", tmp_path / "one")) == 2
    assert "Give --teacher-channels with 3 numbers of 1 to 5" in " ".join(capsys.readouterr().err.split())
    assert ran(words(tmp_path, "2q", tmp_path / "two", "--teacher-channels", "5,3,1")) == 0
    assert load_encoder(str(tmp_path / "two")).encoder.channels == 5


def test_a_student_view_needs_a_teacher(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "pretrain",
        "--data",
        str(scenes / "rgb"),
        "--out",
        str(tmp_path / "run"),
        *SMALL,
        "--student-view",
        "gray",
    ]
    assert ran(given) == 2
    assert "does not apply" in capsys.readouterr().err


def test_int8_of_a_student_is_calibrated_on_what_the_student_sees(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwcl.commands import export_onnx

    out = tmp_path / "run"
    assert ran(words(scenes, "2q", out, "--student-data", str(scenes / "deep"))) == 0
    seen: list[ImageSet] = []
    split = export_onnx.split_calibration

    def watched(images: ImageSet, options: ExportOptions) -> tuple[ImageSet, ImageSet]:
        seen.append(images)
        return split(images, options)

    monkeypatch.setattr(export_onnx, "split_calibration", watched)
    assert ran(["export", str(out), "--int8", "--calibrate-images", "4", "--out", str(tmp_path / "x"), "--quiet"]) == 0
    assert (seen[0].pixel_format.channels, seen[0].pixel_format.dtype) == (1, "uint16")
    assert seen[0].fingerprint == open_images([str(scenes / "deep")], "train").fingerprint
