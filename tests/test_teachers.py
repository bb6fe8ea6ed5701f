"""Runs that learn from a teacher: asked in every step or once, killed and begun again, or as another's first stage."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from crash import KILLED
from runs import cache_at, child, left_by, picture, ran
from torch import Tensor
from torch.nn.functional import interpolate

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.load import load_encoder
from lwcl.commands import train
from lwcl.config.plan import plan_run
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.errors import UsageError
from lwcl.losses import l2_normalise
from lwcl.methods.method import methods
from lwcl.metrics import cost
from lwcl.models.encoder import Encoder, weights_hash
from lwcl.models.loaded import InputSpec
from lwcl.reporting import plots
from lwcl.reporting.console import Screen
from lwcl.training import teacher as teachers
from lwcl.training import teacher_cache
from lwcl.training.build import build_model, build_training
from lwcl.training.resolve import resolve
from lwcl.training.state import TrainingState
from lwcl.training.teacher import OnlineTeacher

#: The command and the settings of each method that has a teacher.
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "seed": ("distill", {"queue_size": 20}),
    "disco": ("distill", {"queue_size": 20, "hidden": "16"}),
    "2q": ("compress", {"anchors": 20}),
    "1q": ("compress", {"anchors": 20}),
    "regression": ("compress", {}),
    "cluster-classify": ("compress", {"clusters": 3}),
    "s2-bnn": ("compress", {}),
}
SMALL = {
    **{"arch": "test_efficientnet", "image_size": 32, "epochs": 2, "batch_size": 8, "teacher_precision": "fp32"},
    **{"threads": 1, "workers": 0, "device": "cpu", "log_every": 1, "save_every": 3},
}
PER_EPOCH, TRAINED, JUDGED = 6, 48, 16
TAKES = InputSpec(
    48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
)  # the teacher; the student takes ImageNet's statistics and 32 px
BARE = {"teacher": "random/test_resnet", "teacher_size": 32}


def fast(*names: str) -> list[Any]:
    """All methods, those that are not named in the slow lane."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


def pixels(images: list[Any], size: int) -> Tensor:
    """Images as a teacher takes them (B, 3, size, size)."""
    rows = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])
    views = rows.view(-1, *images[0].size, 3).permute(0, 3, 1, 2) / 255
    return (interpolate(views, (size, size), mode="bilinear", antialias=True) - 0.5) / 0.5


def made_teacher(path: Path, seed: int = 1, head: tuple[int, ...] = (16, 8)) -> Path:
    """An encoder's file with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_encoder(path, Encoder("test_resnet", head), TAKES, {"origin": "made"})
    return path


def seen_by(teacher: Path, folder: Path) -> Path:
    """Images to train on and to judge with, of two classes that the teacher tells apart and chance does not.

    They are the ends of the third principal component of what it says of many.
    """
    many = [picture(number) for number in range(400)]
    with torch.inference_mode():
        features = l2_normalise(load_encoder(str(teacher)).encoder.eval().features(pixels(many, TAKES.size)))
    order = torch.linalg.svd(features - features.mean(0), full_matrices=False)[0][:, 2].argsort().tolist()
    half = (TRAINED + JUDGED) // 2
    for name, places in (("low", order[:half]), ("high", order[-half:])):
        for rank, number in enumerate(sorted(places)):
            place = folder / ("train" if rank < TRAINED // 2 else "val") / name
            place.mkdir(parents=True, exist_ok=True)
            many[number].save(place / f"{number:03}.png")
    return folder


def as_words(settings: dict[str, Any]) -> list[str]:
    """Settings as they are typed."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in settings.items())
    return [word for pair in pairs for word in pair]


@dataclass
class World:
    """A teacher, images that it knows, and runs that learned from it, each made once."""

    folder: Path
    teacher: Path
    data: Path
    made: dict[str, Path] = field(default_factory=dict)

    def settings(self, method: str, **more: Any) -> dict[str, Any]:
        """All settings of a run but where it goes."""
        data = {"data": str(self.data), "teacher": str(self.teacher)}
        return {"method": method, **METHODS[method][1], **data, **SMALL, **more}

    def words(self, method: str, out: Path, *words: str, **more: Any) -> list[str]:
        """The command of a run."""
        return [METHODS[method][0], *as_words(self.settings(method, out=out, **more)), "--quiet", *words]

    def run(self, method: str, **more: Any) -> Path:
        """The folder of a finished run."""
        key = json.dumps([method, more])
        if key not in self.made:
            self.made[key] = self.folder / f"run-{len(self.made)}"
            assert ran(self.words(method, self.made[key], **more)) == 0
        return self.made[key]

    @property
    def images(self) -> ImageSet:
        """The images that runs are trained on."""
        return open_images((str(self.data),), "train")

    def training(self, method: str, **more: Any) -> TrainingState:
        """A run that is put together and has not begun."""
        plan = plan_run(METHODS[method][0], self.settings(method, **more))
        screen = Screen(quiet=True)
        return build_training(build_model(resolve(plan, self.images), screen), self.images, screen, lambda broken: None)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Nothing is drawn, costs take one pass, and a teacher is asked about as many images as a batch has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "figure_svg", lambda figure: "<svg/>")
        patch.setattr(cost, "TIMING_SECONDS", 0)
        patch.setattr(teachers, "CACHE_BATCH_SIZE", SMALL["batch_size"])
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with cache_at(folder / "cache"):
        teacher = made_teacher(folder / "teacher.safetensors")
        yield World(folder, teacher, seen_by(teacher, folder / "data"))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The views (B, 3, size, size) for which teachers computed outputs from here on."""
    views: list[Tensor] = []
    output = OnlineTeacher.output

    def noted(self: OnlineTeacher, view: Tensor) -> Tensor:
        views.append(view.clone())
        return output(self, view)

    monkeypatch.setattr(OnlineTeacher, "output", noted)
    return views


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_these_are_all_methods_that_have_a_teacher() -> None:
    assert {name: kind.command for name, kind in methods().items() if kind.teacher_space} == {
        name: command for name, (command, _) in METHODS.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_run_says_how_much_of_its_teachers_lead_it_has_taken_over(world: World, method: str) -> None:
    out = world.run(method)
    report, told = report_of(out), load_encoder(str(out))
    facts = report["facts"]
    student, teacher, untrained = facts["gap"]
    assert [row["role"] for row in facts["gap"]] == ["student", "teacher", "untrained"]
    assert [row["arch"] for row in facts["gap"]] == ["test_efficientnet", "test_resnet", "test_efficientnet"]
    assert teacher["top1"] > 0.9, "the classes are the teacher's"
    share = (student["top1"] - untrained["top1"]) / (teacher["top1"] - untrained["top1"])
    assert facts["gap_closed"]["share"] == pytest.approx(share)
    assert "gap" in report["verdict"]
    assert [table["title"] for table in report["tables"]][:2] == ["kNN", "Student and teacher"]
    assert len(report["tables"][1]["rows"]) == 3
    assert all((out / picture["file"]).exists() for picture in report["pictures"])
    assert told.metadata["origin"] == f"lwcl {METHODS[method][0]}"
    assert (told.metadata["teacher"], told.metadata["method"]) == (str(world.teacher), method)
    assert told.metadata["teacher weights"] == weights_hash(load_encoder(str(world.teacher)).encoder)
    assert "teacher weights" in (out / "export" / "README.md").read_text()


@pytest.mark.parametrize("method", fast("seed"))
def test_a_teacher_without_a_head_teaches_its_features(world: World, method: str) -> None:
    out = world.run(method, **BARE)
    assert all(torch.isfinite(torch.tensor(losses(out))))
    assert report_of(out)["facts"]["gap"][1]["name"] == "random/test_resnet"
    width = load_encoder("random/test_resnet", image_size=32).encoder.width
    heads = {"seed": (256, width), "disco": (16, width), "1q": (width,), "regression": (width,)}
    assert load_encoder(str(out)).encoder.head_widths == heads.get(method, ())


def test_a_teacher_sees_each_crop_by_its_own_statistics_at_its_own_size(world: World, shown: list[Tensor]) -> None:
    training = world.training("disco")
    loader = training.loader
    sizes = [(spec.size, spec.mean) for spec in loader.input_specs]
    assert sizes == [(32, (0.485, 0.456, 0.406)), (48, (0.5, 0.5, 0.5))]
    batch = next(loader.batches(7, 8))
    for place, (crop, seen) in enumerate(zip((2, 3), shown, strict=True)):  # views 0 and 1 of epoch 1
        raw = [loader.view(crop, batch.index, InputSpec(size, (0, 0, 0), (1, 1, 1))) for size in (32, 48)]
        assert torch.allclose(seen, (raw[1] - 0.5) / 0.5, atol=1e-6)
        mean, std = (
            torch.tensor(value)[:, None, None]
            for value in (loader.student.input_spec.mean, loader.student.input_spec.std)
        )
        assert torch.allclose(batch.views[place], (raw[0] - mean) / std, atol=1e-5)
        assert float((interpolate(raw[1], (32, 32), mode="area") - raw[0]).abs().mean()) < 0.03, "the same crop"
        with torch.inference_mode():
            said = load_encoder(str(world.teacher)).encoder.eval()(seen)
        assert torch.allclose(batch.teacher_output[place], said, atol=1e-5)


def test_answers_are_rounded_to_what_they_are_kept_in_asked_now_or_before(world: World) -> None:
    for cache in ("off", "views:2", "center"):
        loader = world.training("seed", teacher_precision="bf16", teacher_cache=cache).loader
        taught = next(loader.batches(0, 1)).teacher_output[0]
        assert taught.dtype == torch.float32
        assert torch.equal(taught, taught.bfloat16().float())
    exact = next(world.training("seed").loader.batches(0, 1)).teacher_output[0]
    assert not torch.equal(exact, exact.bfloat16().float())


def test_so_many_crops_are_all_there_are(world: World) -> None:
    def crops(method: str, kept: int) -> list[tuple[int, ...]]:
        loader = world.training(method, teacher_cache=f"views:{kept}").loader
        return [crops.numbers for crops in loader.crops(0, 3 * PER_EPOCH)][::PER_EPOCH]

    assert crops("seed", 2) == [(0,), (1,), (0,)]
    assert crops("disco", 2) == [(0, 1)] * 3
    assert crops("disco", 3) == [(0, 1), (2, 0), (1, 2)]
    loader = world.training("seed", teacher_cache="views:2").loader
    epochs = [list(loader.batches(PER_EPOCH * epoch, PER_EPOCH * (epoch + 1))) for epoch in range(3)]
    first, second, third = ({int(i): b.views[0][n] for b in e for n, i in enumerate(b.index)} for e in epochs)
    assert sorted(first) == list(range(TRAINED))
    assert all(torch.equal(first[i], third[i]) and not torch.equal(first[i], second[i]) for i in first)


def test_the_answer_to_the_central_square_is_the_same_in_every_view(world: World) -> None:
    loader = world.training("2q", teacher_cache="center").loader
    plain = CenterCropDataset(world.images, TAKES)
    squares = torch.stack([plain[place][0] for place in range(TRAINED)]) / 255
    with torch.inference_mode():
        features = load_encoder(str(world.teacher)).encoder.eval().features((squares - 0.5) / 0.5)
    for batch in loader.batches(PER_EPOCH - 1, PER_EPOCH + 2):
        assert torch.allclose(batch.teacher_output[0], features[batch.index], atol=1e-4)
    crops = [crops.numbers for crops in loader.crops(0, 3 * PER_EPOCH)][::PER_EPOCH]
    assert crops == [(0,), (1,), (2,)], "the student sees new crops"


@pytest.mark.parametrize("cache", ["off", "views:4", "center"])
def test_images_decoded_anew_teach_what_stored_ones_teach(world: World, cache: str) -> None:
    """They are not shrunk in the store; Pillow and torch may round a pixel of a crop apart."""
    stored, decoded = (world.training("disco", cache=where, teacher_cache=cache).loader for where in ("ram", "off"))
    assert stored.store
    assert decoded.store is None
    for one, other in zip(stored.batches(5, 7), decoded.batches(5, 7), strict=True):
        assert torch.equal(one.index, other.index)
        for seen, again in zip(one.views, other.views, strict=True):
            assert float((seen - again).abs().max()) < 2 / 255 / 0.22
        for taught, again in zip(one.teacher_output, other.teacher_output, strict=True):
            assert torch.allclose(taught, again, atol=0.02)


@pytest.mark.parametrize("method", fast("seed", "disco"))
def test_kept_answers_train_the_student_that_live_ones_do(world: World, method: str) -> None:
    """Bit for bit, if as many images are asked about at once: kernels round by that, not by which others they are."""
    crops = 4 if method == "disco" else 2
    assert left_by(world.run(method, teacher_cache=f"views:{crops}")) == left_by(world.run(method))


def test_kept_answers_are_the_live_ones_but_for_the_last_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "CACHE_BATCH_SIZE", 128)
    live, kept = (list(world.training("1q", teacher_cache=c).loader.batches(0, 12)) for c in ("off", "views:2"))
    for one, other in zip(live, kept, strict=True):
        assert torch.equal(one.views[0], other.views[0])
        assert torch.allclose(one.teacher_output[0], other.teacher_output[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("point", "left"),
    [("chunk.noted@2", 2), pytest.param("chunk.written@2", 3, marks=pytest.mark.slow)],
)
def test_a_killed_fill_goes_on_and_nothing_is_asked_twice(
    world: World, point: str, left: int, tmp_path: Path, shown: list[Tensor], own_cache: Path
) -> None:
    words = world.words("disco", tmp_path / "run", teacher_cache="views:4")
    assert child(words, own_cache, point) == KILLED
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert ran(words) == 0
    assert sum(map(len, shown)) == TRAINED * left, "nothing is computed twice"
    assert left_by(tmp_path / "run") == left_by(world.run("disco", teacher_cache="views:4"))


def must_go_on(world: World, method: str, tmp_path: Path, **more: Any) -> None:
    """Asserts that a run that was killed in step 11, in mid-epoch, goes on after step 9 to the unbroken run's end."""
    words = world.words(method, tmp_path / "run", **more)
    assert child(words, tmp_path / "cache", "metrics.append@11") == KILLED
    assert child(words, tmp_path / "cache") == 0
    assert "after step 9 of 12" in (tmp_path / "run" / "log.txt").read_text()
    assert left_by(tmp_path / "run") == left_by(world.run(method, **more))


def test_a_killed_run_goes_on_with_its_teacher(world: World, tmp_path: Path) -> None:
    must_go_on(world, "disco", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [method for method in METHODS if method != "disco"])
def test_a_killed_run_of_every_method_goes_on_with_its_teacher(world: World, method: str, tmp_path: Path) -> None:
    must_go_on(world, method, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "cache"), [("disco", "views:4"), ("2q", "center"), ("cluster-classify", "center")])
def test_a_killed_run_goes_on_with_the_answers_that_were_kept(
    world: World, method: str, cache: str, tmp_path: Path
) -> None:
    must_go_on(world, method, tmp_path, teacher_cache=cache)


def test_another_teacher_is_refused_when_a_run_goes_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copy(world.teacher, tmp_path / "own.safetensors")
    words = world.words("2q", tmp_path / "run", teacher=own)
    assert child(words, tmp_path / "cache", "metrics.append@8") == KILLED
    made_teacher(tmp_path / "own.safetensors", seed=2)
    assert ran(words) == 2
    error = capsys.readouterr().err
    assert 'Settings differ: teacher: "weights ' in error
    assert "--overwrite would discard it" in error
    shutil.copy(world.teacher, own)
    assert ran(words) == 0
    facts = [load_encoder(str(out)).metadata.pop("teacher") for out in (tmp_path / "run", world.run("2q"))]
    assert facts == [str(own), str(world.teacher)]
    assert losses(tmp_path / "run") == losses(world.run("2q"))


def test_init_starts_from_a_backbone_and_if_wanted_a_head(world: World) -> None:
    init = str(world.run("seed"))
    first = load_encoder(init).encoder.state_dict()
    for head in (False, True):
        training = world.training("seed", init=init, init_head=head)
        begun = training.net.student.state_dict()
        same = {name: torch.equal(tensor, first[name]) for name, tensor in begun.items()}
        assert all(equal for name, equal in same.items() if name.startswith("backbone."))
        assert [equal for name, equal in same.items() if name == "head.2.weight"] == [head]
        assert training.loaded("it").metadata["init"] == init
    assert "init" not in load_encoder(init).metadata


def test_init_names_the_architecture_or_the_widths_that_do_not_fit(world: World) -> None:
    with pytest.raises(UsageError, match="does not fit the backbone") as error:
        world.training("seed", init="random/test_resnet")
    assert error.value.remedy.startswith("Give --arch test_resnet")
    with pytest.raises(UsageError, match="does not fit the head") as error:
        world.training("disco", init=str(world.run("seed")), init_head=True)
    assert "Remove --init-head" in error.value.remedy
    assert "there" in error.value.why and "state_dict" not in error.value.why


def two_stages(world: World, out: Path, *more: str) -> list[str]:
    """A run of MoCo that begins as a student of SEED."""
    data = {"data": world.data, "out": out, "teacher": world.teacher, "init_by": "seed:1"}
    own = {"method": "moco", "hidden": 16, "dim": 8, "queue_size": 20}
    return ["pretrain", *as_words({**SMALL, **data, **own}), "--quiet", *more]


@dataclass
class Staged:
    """A finished run of two stages, and what it said."""

    out: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def staged(world: World) -> Staged:
    said, told, out = io.StringIO(), io.StringIO(), world.folder / "staged"
    words = [word for word in two_stages(world, out, "--json") if word != "--quiet"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        assert ran(words) == 0
    return Staged(out, said.getvalue(), told.getvalue())


def test_one_command_trains_two_stages(world: World, staged: Staged) -> None:
    first, report = load_encoder(str(staged.out / "first")), report_of(staged.out)
    assert report_of(staged.out / "first")["kind"] == "distill"
    assert (first.metadata["method"], first.metadata["epochs"], first.metadata["teacher"]) == (
        "seed",
        1,
        str(world.teacher),
    )
    assert report["settings"]["init"]["value"] == str(staged.out / "first")
    told = load_encoder(str(staged.out)).metadata
    assert (told["method"], told["epochs"], told["init"]) == ("moco", 2, str(staged.out / "first"))
    assert "gap" not in report["facts"], "the second stage has no teacher"
    assert yaml.safe_load((staged.out / "config.yaml").read_text())["init"] is None


def test_a_first_stage_cut_short_is_not_taken_for_a_whole_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = two_stages(world, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_in_folder", stopped_in_the_second(train.train_in_folder))
        assert ran([*words, "--fast-dev-run", "1"]) == 130
    assert ran(words) == 2
    assert "of 1 epochs, by --fast-dev-run. Give --overwrite" in " ".join(capsys.readouterr().err.split())
    assert ran([*words, "--overwrite"]) == 0


def stopped_in_the_second(trained: Callable[..., int]) -> Callable[..., int]:
    """Trains a first stage, and stops as by Ctrl-C in the second."""
    return lambda plan, *rest, **told: 130 if plan.options.method == "moco" else trained(plan, *rest, **told)


def test_only_the_second_stage_speaks_on_stdout(staged: Staged) -> None:
    assert json.loads(staged.stdout)["facts"]["method"] == "moco"
    assert f"{staged.out / 'first'} " in staged.stderr


@pytest.mark.parametrize(
    ("point", "commands"),
    [
        ("metrics.append@9", 1),
        pytest.param("metrics.append@2", 2, marks=pytest.mark.slow),
        pytest.param("encoder.write@2", 1, marks=pytest.mark.slow),
    ],
)
def test_two_stages_go_on_in_the_one_that_was_killed(
    world: World, staged: Staged, point: str, commands: int, tmp_path: Path
) -> None:
    words, out = two_stages(world, tmp_path / "run"), tmp_path / "run"
    assert child(words, tmp_path / "cache", point) == KILLED
    assert child(words, tmp_path / "cache") == 0
    assert len((out / "first" / "command.txt").read_text().splitlines()) == commands
    for name in ("metrics.jsonl", "first/metrics.jsonl", "export/model.safetensors", "first/encoder.safetensors"):
        assert (out / name).read_bytes() == (staged.out / name).read_bytes()


def test_a_first_stage_that_took_steps_is_not_thrown_away_for_other_settings(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = two_stages(world, tmp_path / "run")
    assert child(words, tmp_path / "cache", "metrics.append@3") == KILLED
    assert ran([*words, "--lr", "0.5"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert len(losses(tmp_path / "run" / "first")) == 2
    assert ran([*words, "--lr", "0.5", "--overwrite", "--fast-dev-run", "1"]) == 0
    assert len(losses(tmp_path / "run" / "first")) == 1, "both stages are fast"


def test_a_student_of_its_own_kind_is_self_distillation(world: World, tmp_path: Path) -> None:
    words = world.words("2q", tmp_path / "run", "--fast-dev-run", "2", **BARE, arch="test_resnet")
    assert ran(words) == 0
    facts = report_of(tmp_path / "run")["facts"]
    assert {row["arch"] for row in facts["gap"]} == {"test_resnet"}
    assert facts["gap"][1]["top1"] == facts["gap"][2]["top1"], "this teacher is the untrained net"


def test_config_yaml_given_back_makes_the_students_run_again(world: World, tmp_path: Path) -> None:
    config = str(world.run("regression") / "config.yaml")
    assert ran(["compress", "--config", config, "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert left_by(tmp_path / "again") == left_by(world.run("regression"))


@pytest.mark.parametrize(("cache", "size"), [("views:3", 3 * TRAINED * 8 * 4), ("center", TRAINED * 8 * 4)])
@pytest.mark.parametrize("where", ["disk", "off"])
def test_a_dry_run_tells_what_answers_will_take_and_keeps_none(
    world: World, cache: str, size: int, where: str, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = world.words("seed", tmp_path / "run", "--dry-run", "--json", teacher_cache=cache, cache=where)
    assert ran(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["teacher outputs on disk, bytes"] == size
    assert document["settings"]["teacher_cache"] == {"value": cache, "origin": "flag"}
    assert os.listdir(tmp_path) == os.listdir(own_cache) == []


def test_a_teachers_answers_take_what_was_told(world: World) -> None:
    training = world.training("seed", teacher_cache="views:3")
    assert training.teacher
    told = teacher_cache.teacher_cache_bytes(3, TRAINED, training.teacher.dim, training.teacher.dtype)
    sizes = {file.stat().st_size for file in Path(os.environ["LWCL_CACHE"]).rglob("rows.bin")}
    assert sizes == {told} == {3 * TRAINED * 8 * 4}


def test_a_teacher_by_the_batch_answers_by_it_and_learns_nothing(world: World) -> None:
    views = torch.randn(8, 3, 48, 48)
    for mode in ("eval", "train"):
        live = world.training("disco", teacher_bn=mode).teacher
        assert live
        before = {name: t.clone() for name, t in live.encoder.state_dict().items() if "running" in name}
        alone, among = live.output(views[:4]), live.output(views)[:4]
        assert torch.allclose(alone, among, atol=1e-5) is (mode == "eval")
        assert all(torch.equal(t, live.encoder.state_dict()[name]) for name, t in before.items())


REFUSED = {  # what the message must name
    "distill --method seed": ("seed", "--teacher"),
    "compress": ("regression", "--teacher"),
    "pretrain --method moco --teacher T": ("moco", "--init-by seed:2"),
    "pretrain --init-by seed:1": ("--init-by seed:1", "--teacher"),
    "pretrain --teacher T --init-by moco:1": ("--init-by", "moco", "seed"),
    "pretrain --teacher T --init-by seed": ("--init-by", "seed:2"),
    "pretrain --teacher T --init-by seed:0": ("--init-by", "seed:2"),
    "pretrain --teacher T --init-by seed:1 --init T": ("--init and", "--init-by"),
    "distill --teacher T --teacher-cache sometimes": ("--teacher-cache", "sometimes", "views:8"),
    "distill --teacher T --teacher-cache views:0": ("--teacher-cache", "views:0", "views:8"),
    "distill --teacher T --teacher-cache views:1": ("--teacher-cache", "views:2"),
    "pretrain --teacher T --init-by disco:1 --teacher-cache views:1": ("--teacher-cache", "views:2"),
    "distill --teacher T --teacher-bn train --teacher-cache center": ("--teacher-cache", "--teacher-bn eval"),
    "distill --teacher T --teacher-bn train --teacher-cache views:2": ("--teacher-cache", "--teacher-bn eval"),
    "distill --teacher T --dim 5": ("--dim 5", "--dim 8"),
    "distill --teacher nowhere": ("nowhere", "random/ARCH"),
    "distill --teacher resnet_18": ("resnet_18", "random/resnet18", "timm/resnet18"),
    "distill --teacher timm/resnet5": ("resnet5", "resnet50"),
    "distill --teacher random/test_vit --teacher-size 50": ("test_vit", "--image-size"),
    "distill --teacher T --init T": ("backbone", "test_efficientnet", "--arch"),
    "distill --teacher T --init random/test_efficientnet --init-head": ("head", "--init-head"),
    "distill --teacher T --init-head": ("--init-head", "--init ENCODER"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_taught_is_refused_in_words(
    world: World, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [str(world.teacher) if word == "T" else word for word in words.split()]
    assert ran([*typed, *as_words({**SMALL, "data": world.data, "out": tmp_path / "run"})]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in REFUSED[words])
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()
