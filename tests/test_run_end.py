"""The end of a run: a finished training leaves its encoder, export and report, whatever judging comes upon."""

import json
from pathlib import Path

import pytest
from runs import METHODS, child, made_images, pretrain, ran

from lwcl.training import finalize

LEFT = ("encoder.safetensors", "export/model.safetensors", "report.json", "report.html")


def words(data: Path, out: Path, *more: str) -> list[str]:
    return [*pretrain(data, out, *METHODS["light-moco"], "--epochs", "1", *more)]


def test_class_folders_beside_an_unlabelled_val_train_to_the_end_without_a_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_images(tmp_path / "data" / "train", 24, ("cat", "dog"))
    made_images(tmp_path / "data" / "val", 8)
    assert ran(words(tmp_path / "data", tmp_path / "run")) == 0
    assert all((tmp_path / "run" / name).exists() for name in LEFT)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "No kNN score: --val: 8 images without labels." in report["verdict"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "No kNN score" in log + capsys.readouterr().err


def test_a_monitor_that_cannot_judge_is_refused_before_the_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_images(tmp_path / "data", 24)
    assert ran(words(tmp_path / "data", tmp_path / "run", "--monitor", str(tmp_path / "data"))) == 4
    assert "labels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_error_while_judging_comes_after_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(finalize, "final_scores", failing)
    made_images(tmp_path / "data", 24)
    assert ran(words(tmp_path / "data", tmp_path / "run")) == 1
    assert all((tmp_path / "run" / name).exists() for name in LEFT)
    assert "RuntimeError: no luck" in json.loads((tmp_path / "run" / "report.json").read_text())["verdict"]


def test_a_report_that_nobody_asked_for_and_that_cannot_be_kept_costs_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_images(tmp_path / "data" / "train", 24, ("cat", "dog"))
    made_images(tmp_path / "data" / "val", 8, ("cat", "dog"))
    assert ran(words(tmp_path / "data", tmp_path / "run")) == 0
    (tmp_path / "run" / "knn").write_text("in the way, as a read-only disk would be")
    capsys.readouterr()
    judge = ["knn", str(tmp_path / "run"), "--data", str(tmp_path / "data"), "--no-random-init"]
    assert ran(judge) == 0
    told = capsys.readouterr()
    assert "kNN top-1" in told.out
    assert "The report was not kept. Cannot write" in told.err
    assert "Give --out" in told.err
    (tmp_path / "file").write_text("")
    assert ran([*judge, "--out", str(tmp_path / "file" / "report")]) == 5, "a report that was asked for"


def test_a_resumed_run_tells_the_time_of_all_its_parts(tmp_path: Path) -> None:
    made_images(tmp_path / "data", 48)
    command = words(tmp_path / "data", tmp_path / "run", "--epochs", "2")
    assert child(command, tmp_path / "cache", "metrics.append@8") == -9
    (tmp_path / "run" / "elapsed.jsonl").write_text('{"step": 6, "seconds": 3600.0}\n')
    assert ran(command) == 0
    timing = json.loads((tmp_path / "run" / "report.json").read_text())["facts"]["timing"]
    assert 3600 < timing["seconds"] < 3700


def test_a_page_follows_the_run_in_a_browser_and_the_last_one_shows_what_was_learned(tmp_path: Path) -> None:
    made_images(tmp_path / "data" / "train", 48, ("cat", "dog"))
    command = [*pretrain(tmp_path / "data", tmp_path / "run", *METHODS["light-moco"]), "--html"]
    assert child(command, tmp_path / "cache", "metrics.append@8") == -9
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="20">' in page
    assert "Still training: 6 of 12 steps" in page
    assert "Metrics now" in page and "at the end" not in page and "not solved" not in page
    assert "Augmented samples" in page
    assert ran(command) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "refresh" not in page
    assert "<script" not in page
    titles = [one["title"] for one in json.loads((tmp_path / "run" / "report.json").read_text())["pictures"]]
    assert titles[:4] == [
        "Map of the images",
        "Nearest neighbours after training",
        "Nearest neighbours before training",
        "Confusion of classes",
    ]
