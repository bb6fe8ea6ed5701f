"""A run goes on however its images are spelled and wherever they were moved, and with what changes no result."""

import os
import shutil
from pathlib import Path

import pytest
from crash import KILLED
from runs import METHODS, SMALL, child, left_by, made_images, pretrain, ran

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.models.loaded import InputSpec, random_encoder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an interrupted run on them, and what the run leaves unbroken."""
    folder = tmp_path_factory.mktemp("spelling")
    made_images(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LWCL_CACHE", str(folder / "cache"))
        assert child(words("photos", "run"), folder / "cache", "metrics.append@8") == KILLED
        assert ran(words("photos", "whole")) == 0
    return folder


def words(data: str, out: str, *more: str) -> list[str]:
    return [*pretrain(data, Path(out), *METHODS["light-moco"], *more)]


def resumed(place: Path, tmp_path: Path, data: str, *more: str) -> tuple[Path, str]:
    """A copy of the interrupted run, resumed with other words, and its log."""
    run = shutil.copytree(place / "run", tmp_path / "run")
    assert ran(words(data, str(run), *more)) == 0
    return run, (run / "log.txt").read_text()


@pytest.mark.parametrize("spelling", ["photos/", "./photos", "{place}/photos", "../{name}/photos"])
def test_images_spelled_otherwise_are_the_same_images(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(place)
    run, log = resumed(place, tmp_path, spelling.format(place=place, name=place.name))
    assert left_by(run)["encoder.safetensors"] == left_by(place / "whole")["encoder.safetensors"]
    assert "Resuming after step" in log


def test_images_copied_to_another_disk_are_the_same_images_and_it_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "scratch" / "copy"
    shutil.copytree(place / "photos", copy, copy_function=shutil.copyfile)
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    monkeypatch.chdir(tmp_path)
    run, log = resumed(place, tmp_path, str(copy))
    assert "times of the image files have changed" in log
    assert "Resuming with a different --data" in log
    assert str(copy) in (run / "config.yaml").read_text()


@pytest.mark.parametrize("more", [("--log-every", "5"), ("--cache", "disk"), ("--monitor-every", "2")])
def test_what_changes_no_result_never_refuses(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, str]
) -> None:
    monkeypatch.chdir(place)
    _, log = resumed(place, tmp_path, "photos", *more)
    assert f"Resuming with a different {more[0]}" in log or more[0] == "--cache"


def test_other_images_or_settings_are_refused_and_overwriting_is_not_the_first_remedy(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(place / "run", tmp_path / "run")
    made_images(tmp_path / "photos", 40)
    monkeypatch.chdir(tmp_path)
    for data, more, named in (("photos", (), "images"), (str(place / "photos"), ("--lr", "0.5"), "lr: 0.01 -> 0.5")):
        assert ran(words(data, str(run), *more)) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert named in told[1]
        assert told[2].startswith("Use the run's original settings to resume it")


def test_without_out_another_spelling_resumes_and_begins_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)

    def command(data: str) -> list[str]:
        every = words(data, "x")
        place = every.index("--out")
        return every[:place] + every[place + 2 :]

    assert child(command("photos"), tmp_path / "cache", "metrics.append@8") == KILLED
    assert ran(command("photos/")) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("name", ["teacher", "init"])
def test_a_teacher_or_start_that_was_moved_is_the_same_and_one_that_changed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LWCL_CACHE", str(tmp_path / "cache"))
    for seed in (0, 1):
        start = random_encoder("test_efficientnet", InputSpec.for_arch("test_efficientnet", 32), seed)
        save_encoder(tmp_path / f"start-{seed}.safetensors", start.encoder, start.input_spec, {})

    def command(start: str) -> list[str]:
        if name == "init":
            return words("photos", "run", "--init", start)
        small = [*SMALL[: SMALL.index("--dim")], *SMALL[SMALL.index("--dim") + 2 :]]
        return ["distill", "--recipe", "seed", "--data", "photos", "--out", "run", *small, "--teacher", start]

    assert child(command("start-0.safetensors"), tmp_path / "cache", "metrics.append@8") == KILLED
    Path("moved.safetensors").write_bytes(Path("start-0.safetensors").read_bytes())
    Path("start-0.safetensors").write_bytes(Path("start-1.safetensors").read_bytes())
    assert ran(command("start-0.safetensors")) == 2
    assert f'{name}: "weights ' in capsys.readouterr().err
    assert ran(command("moved.safetensors")) == 0
    assert f"Resuming with a different --{name}" in Path("run/log.txt").read_text()
