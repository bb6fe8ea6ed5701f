"""The diagnosis of clusters: what it leaves, that it is seeded, that labels are optional, and how it refuses."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy
import pytest
import torch
from runs import cache_at, made_images

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.load import load_encoder
from lwcl.commands import diagnose as diagnosis
from lwcl.config.augmentation import MOCO_V2, Augmentation
from lwcl.config.eval_options import DiagnoseOptions
from lwcl.config.validation import parse_options
from lwcl.data.dataset import open_images
from lwcl.diagnosis.advice import advice_for_run
from lwcl.diagnosis.encoder_metrics import alignment_by_overlap, histogram_counts, known_labels, select_queries
from lwcl.diagnosis.subjects import STATIC_VIEWS, views_for
from lwcl.diagnosis.three_views import ThreeViews, ViewsDataset
from lwcl.diagnosis.thresholds import VERDICT_ADVICE
from lwcl.diagnosis.thresholds import threshold_table as clustering_verdict_table
from lwcl.diagnosis.verdict import VERDICT_MEANINGS
from lwcl.errors import DataError, TrainingDivergedError, UsageError
from lwcl.models.loaded import InputSpec, random_encoder
from lwcl.runs.folder import report_folder
from lwcl.runs.guard import write_settings
from lwcl.system.device import choose_compute

CLASSES = ("cat", "dog", "<b>&amp;'\"")
TAKES = InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEAD = {"threads": 1, "workers": 0, "device": "cpu", "batch_size": 16}


def encoder_at(folder: Path, seed: int = 1, weight: float | None = None) -> Path:
    """A run's folder with an encoder that is said to be trained; its last norm's weights and shifts are `weight`."""
    loaded = random_encoder("test_efficientnet", TAKES, seed)
    norms = [module for module in loaded.encoder.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if weight is not None:
        for tensor in (norms[-1].weight, norms[-1].bias):
            torch.nn.init.constant_(tensor, weight)
    folder.mkdir(parents=True)
    views = dataclasses.asdict(Augmentation(**{**MOCO_V2, "crop_min": 0.5}))
    facts = {"origin": "lwcl pretrain", "augmentation": views}
    save_encoder(folder / "encoder.safetensors", loaded.encoder, TAKES, facts)
    (folder / "config.yaml").write_text("arch: test_efficientnet\n", encoding="utf-8")
    return folder


def diagnosed(encoder: Path, data: Path, out: Path, **chosen: object) -> dict:
    """The document that a diagnosis leaves."""
    told = {"data": (str(data),), "out": str(out), **HEAD, **chosen}
    assert diagnosis.run_diagnosis([str(encoder)], parse_options(DiagnoseOptions, told), quiet=True) == 0
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes with a val split, and an encoder."""
    folder = tmp_path_factory.mktemp("diagnosis")
    made_images(folder / "data/train", 45, CLASSES)
    made_images(folder / "data/val", 9, CLASSES)
    encoder_at(folder / "run")
    return folder


@pytest.fixture(scope="module")
def told(place: Path) -> dict:
    with cache_at(place / "cache"):
        return diagnosed(place / "run", place / "data", place / "run/diagnosis", seed=3)


def page_of(place: Path) -> str:
    return (place / "run/diagnosis/report.html").read_text(encoding="utf-8")


def test_a_report_goes_where_it_is_wanted_or_beside_the_first_run(place: Path) -> None:
    assert report_folder(None, ["random/resnet18", str(place / "run")], "diagnosis") == place / "run/diagnosis"
    assert report_folder("there", [str(place / "run")], "diagnosis") == Path("there")
    assert report_folder(None, ["random/resnet18"], "diagnosis") is None


def test_the_untrained_encoder_stands_beside_and_has_no_verdict(told: dict) -> None:
    trained, untrained = told["facts"]["encoders"]
    assert [trained["role"], untrained["role"]] == ["encoder", "untrained"]
    assert trained["verdict"]["diagnosis"] in told["verdict"] and trained["verdict"]["reasons"]
    assert untrained["verdict"] is None
    assert untrained["arch"] == "test_efficientnet" and trained["views"] == "those of its run"
    assert told["facts"]["images"] == 45 and told["facts"]["held-out images"] == 9


def test_every_measure_is_told_for_every_encoder(told: dict) -> None:
    for one in told["facts"]["encoders"]:
        numbers = one["metrics"]
        assert 0 <= numbers["pairs"]["d_sd"][0] <= numbers["pairs"]["d_sd"][4] <= 1
        assert {"nmi", "clusters_per_class", "held_out_purity"} <= set(numbers["clusters"][0])
        assert any(row["k"] == len(CLASSES) for row in numbers["clusters"])
        assert numbers["spectrum"]["centred_rank"] > 1 and numbers["neighbourhood"]["k"] == 10
        assert sum(row["pairs"] for row in numbers["overlap"]) <= 45
        assert 0 <= numbers["held_out"]["cluster_alignment"] <= 1


def test_the_page_shows_every_kind_of_picture_and_runs_nothing(told: dict, place: Path) -> None:
    titles = " ".join(one["title"] for one in told["pictures"])
    for kind in (
        "t-SNE",
        "PCA",
        "Singular values",
        "Similarities",
        "Clusters and classes",
        "Nearest neighbours",
        "Sample",
    ):
        assert kind in titles
    page = page_of(place)
    assert "<script" not in page and not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert len(page) < 3_000_000
    assert all((place / "run/diagnosis" / one["file"]).stat().st_size for one in told["pictures"])
    assert all(one["caption"] for one in told["pictures"])


def test_hostile_names_of_classes_are_text(told: dict, place: Path) -> None:
    assert "<b>" not in page_of(place)
    assert CLASSES[2] not in page_of(place)


def test_the_same_seed_tells_the_same(told: dict, place: Path, tmp_path: Path) -> None:
    again = diagnosed(place / "run", place / "data", tmp_path, seed=3)
    for name in ("tables", "verdict"):
        assert json.dumps(again[name]) == json.dumps(told[name])
    for one in told["pictures"]:
        assert (tmp_path / one["file"]).read_bytes() == (place / "run/diagnosis" / one["file"]).read_bytes()


def test_without_labels_what_needs_them_is_left_out(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    flat = made_images(tmp_path / "flat", 20)
    options = {"data": (str(flat),), "random_init": False, "views": "crop-flip", "k": (5,), **HEAD}
    assert diagnosis.run_diagnosis([str(place / "run")], parse_options(DiagnoseOptions, options), as_json=True) == 0
    said = capfd.readouterr()
    (one,) = (told := json.loads(said.out))["facts"]["encoders"]
    assert "No labels" in said.err and one["views"] == "crop-flip"
    assert [row["k"] for row in one["metrics"]["clusters"]] == [4, 5]
    assert one["metrics"]["pairs"]["intra_d"] is None and not one["metrics"]["held_out"]
    shown = next(table for table in told["tables"] if table["title"] == "Clusters")
    assert "NMI" not in shown["columns"] and "Nearest to their own view, %" in shown["columns"]
    numbers = told["tables"][0]
    assert numbers["columns"] == ["Measure", numbers["columns"][1], "Better", "Usual"], "direction and what is usual"
    assert {row[-2] for row in numbers["rows"]} == {"higher"}
    assert not any("classes" in picture["title"] for picture in told["pictures"])


@pytest.mark.parametrize(
    ("count", "chosen", "error", "words"),
    [
        (1, {}, DataError, "too few"),
        (20, {"images": 3}, UsageError, "--images 3"),
        (20, {"k": (21,)}, UsageError, "--k 21"),
        (20, {"views": "mocov2"}, UsageError, "moco-v2"),
        (20, {"val": ("EMPTY",)}, DataError, "No images"),
        (20, {"teacher": "nowhere"}, UsageError, "nowhere"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(place, tmp_path, count, chosen, error, words) -> None:
    (tmp_path / "empty").mkdir()
    chosen = {name: (str(tmp_path / "empty"),) if value == ("EMPTY",) else value for name, value in chosen.items()}
    with pytest.raises(error, match=words):
        diagnosed(place / "run", made_images(tmp_path / "data", count), tmp_path / "out", **chosen)


def test_images_of_one_class_count_as_unlabelled(place: Path, tmp_path: Path) -> None:
    images = open_images([str(made_images(tmp_path / "data", 20, ("cat", "dog")))])
    some = images.subset([place for place, label in enumerate(images.labels.tolist()) if label == 1])
    assert some.labelled and known_labels(some) is None


def test_weights_that_are_not_finite_are_a_sick_model(place: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="not finite"):
        diagnosed(encoder_at(tmp_path / "nan", weight=float("nan")), place / "data", tmp_path / "out")


def test_a_collapsed_encoder_is_called_so_and_strict_says_it_with_its_exit_code(place: Path, tmp_path: Path) -> None:
    sick = encoder_at(tmp_path / "sick", weight=0.0)
    with pytest.raises(TrainingDivergedError, match="collapsed") as caught:
        diagnosed(sick, place / "data", tmp_path / "out", strict=True, random_init=False)
    assert caught.value.exit_code == 3
    assert "collapsed" in json.loads((tmp_path / "out/report.json").read_text())["verdict"]


def test_a_teacher_comes_last_and_sees_the_views_of_the_first(place: Path, tmp_path: Path) -> None:
    teacher = encoder_at(tmp_path / "teacher", seed=5)
    told = diagnosed(place / "run", place / "data", tmp_path / "out", teacher=str(teacher), images=20)
    roles = [(one["role"], one["views"]) for one in told["facts"]["encoders"]]
    assert [role for role, _ in roles] == ["encoder", "untrained", "teacher"]
    assert len({views for _, views in roles}) == 1 and told["facts"]["images"] == 20


def test_views_are_those_of_the_run_unless_others_are_asked_for(place: Path) -> None:
    trained, untrained = load_encoder(str(place / "run")), load_encoder("random/test_efficientnet")
    assert views_for(trained, "run")[0].crop_min == 0.5
    assert views_for(trained, "ssl-small") == (Augmentation(**MOCO_V2), STATIC_VIEWS)
    assert views_for(untrained, "run") == (Augmentation(**MOCO_V2), STATIC_VIEWS)


def test_views_do_not_depend_on_batches_or_on_being_kept(place: Path) -> None:
    images = open_images([str(place / "data")], "train")
    sights = ViewsDataset(images, TAKES, Augmentation(**MOCO_V2), 0)
    loaded = random_encoder("test_efficientnet", TAKES, 0)

    def features(batch_size: int) -> ThreeViews:
        return ThreeViews(sights, batch_size=batch_size, workers=0, broken=lambda broken: None)

    compute = choose_compute(loaded.encoder, "cpu", "fp32")
    seen = features(16)
    first = seen.features(loaded, compute, lambda count: None)
    kept = seen.features(loaded, compute, lambda count: None)
    other = features(7).features(loaded, compute, lambda count: None)
    for one, same, near in zip(first, kept, other, strict=True):
        assert torch.equal(one, same)
        assert torch.allclose(one, near, atol=1e-4)
    assert seen.boxes.shape == (2, 45, 4) and not torch.equal(*seen.boxes)
    assert not torch.allclose(first.first, first.second, atol=1e-3)


def test_a_plain_view_of_no_augmentation_equals_its_views(place: Path) -> None:
    images = open_images([str(place / "data")], "train").subset(range(8))
    whole = dataclasses.replace(TAKES, crop_pct=1.0)
    seen = ThreeViews(
        ViewsDataset(images, whole, Augmentation(), 0), batch_size=8, workers=0, broken=lambda broken: None
    )
    for plain, first, second in seen.samples(whole, 8):
        assert numpy.array_equal(first, second)
        assert numpy.abs(plain.astype(int) - first).max() <= 8  # bicubic and bilinear


def test_overlap_is_told_by_bands() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10]] * 3, [[0, 0, 10, 10], [0, 9, 10, 10], [20, 20, 5, 5]]])
    rows = torch.eye(3)
    found = {row.band: row.pairs for row in alignment_by_overlap(rows, rows, boxes)}
    assert found == {"super-hard": 0, "hard": 1, "easy": 1}


def test_queries_of_a_sheet_are_of_different_classes_first() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert labels[select_queries(torch.arange(6), labels, 4)].tolist() == [0, 1, 2, 0]
    assert select_queries(torch.arange(6), None, 2).tolist() == [0, 1]


def test_values_are_counted_between_edges() -> None:
    edges = torch.linspace(0, 1, 5)
    assert histogram_counts(torch.tensor([0.0, 0.1, 0.26, 0.99, 1.0]), edges) == [2, 1, 0, 2]
    assert histogram_counts(torch.tensor([]), edges) == [0, 0, 0, 0]


def test_the_page_of_the_diagnosis_tells_the_limits_of_the_verdict() -> None:
    path = Path(__file__).parents[1] / "docs/diagnosis.md"
    rows = "".join(f"| {' | '.join(row)} |\n" for row in clustering_verdict_table())
    words = "".join(f"* **{word}**: {meaning}\n" for word, meaning in VERDICT_MEANINGS.items())
    made = f"\n{words}\n| Diagnosis | Metric | Threshold | Condition |\n|---|---|---|---|\n{rows}\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition("<!-- made: verdicts -->\n")
    old, end, after = rest.partition("<!-- end: verdicts -->")
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        path.write_text(f"{before}{begin}{made}{end}{after}", encoding="utf-8")
        old = made
    assert old == made, f"{path} is old: run the tests with LWCL_UPDATE_GOLDEN=1"


def test_copies_are_left_out_and_named_and_data_without_differences_are_to_blame(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = made_images(tmp_path / "twice", 12)
    for file in sorted(images.iterdir()):
        (images / f"again-{file.name}").write_bytes(file.read_bytes())
    told = diagnosed(place / "run", images, tmp_path / "report")
    assert "12 of 24 images are copies of others, pixel for pixel: they are left out." in capsys.readouterr().err
    assert told["facts"]["copies"] == 12
    assert told["facts"]["encoders"][0]["metrics"]["evidence"]["images"] == 12
    one = sorted(images.iterdir())[0].read_bytes()
    for file in images.iterdir():
        file.write_bytes(one)
    with pytest.raises(DataError, match="The data are to blame, not the encoder"):
        diagnosed(place / "run", images, tmp_path / "second")


def test_advice_is_a_command_to_paste_and_names_only_what_the_run_has(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    settings = {"method": "simclr", "lr": 0.003, "warmup": 2.0, "epochs": 20.0, "arch": "resnet18", "image_size": 64}
    settings |= {"teacher": None, "recipe": "simclr", "data": ["my photos"], "queue_size": 0, "images": {"count": 500}}
    write_settings(run, settings)
    advice = {one.setting: one.command for one in advice_for_run(VERDICT_ADVICE["under-trained"], run)}
    assert advice["more --epochs"] == f"lwcl pretrain --config '{run}/config.yaml' --epochs 40 --out '{run}-next'"
    assert "a smaller --queue-size" not in advice, "there is no queue, or it is smaller than the data"
    teacher = next(command for setting, command in advice.items() if setting.startswith("lwcl distill"))
    assert teacher.startswith("lwcl distill --data 'my photos' --arch resnet18 --image-size 64 --teacher timm/")
    write_settings(run, settings | {"queue_size": 4096})
    assert "--queue-size 62" in str(advice_for_run(VERDICT_ADVICE["under-trained"], run))
    settled = advice_for_run(VERDICT_ADVICE["collapsed"], run)
    assert [one.setting for one in settled] == ["a lower --lr, a longer --warmup"], "SimCLR has no key encoder here"
    assert "--lr 0.001 --warmup 4" in settled[0].command
