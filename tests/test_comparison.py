"""`lwcl compare`: finished runs side by side, from what they left."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import METHODS, cache_at, copied, made_images, pretrain, ran

from lwcl.formatting import percent
from lwcl.reporting.plots import shorten


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished runs on the same labelled images, which differ in their rate and their name."""
    folder = tmp_path_factory.mktemp("compared")
    made_images(folder / "data" / "train", 24, ("cat", "dog"))
    made_images(folder / "data" / "val", 8, ("cat", "dog"))
    with cache_at(folder / "cache"):
        for name, rate in (("slow", "0.01"), ("fast", "0.02")):
            assert ran(pretrain(folder / "data", folder / name, *METHODS["moco"], "--lr", rate)) == 0
    return folder / "slow", folder / "fast"


def names(runs: tuple[Path, ...]) -> list[str]:
    return [str(run) for run in runs]


def changed(run: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose report is another."""
    report = json.loads((copied(run, to) / "report.json").read_text())
    change(report)
    (to / "report.json").write_text(json.dumps(report))
    return to


def scored(run: Path, to: Path, top1: float, interval: tuple[float, float]) -> Path:
    """A copy of a run with another score."""
    return changed(run, to, lambda report: report["facts"]["knn"][0].update(top1=top1, top1_interval=interval))


def test_runs_stand_side_by_side_with_the_settings_that_differ(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(["compare", *names(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Runs", lines[1]]
    assert re.split(r"\s{2,}", lines[1])[:5] == ["Run", "Method", "Architecture", "Epochs", "kNN top-1"]
    for run, line in zip(runs, lines[2:4], strict=True):
        facts = json.loads((run / "report.json").read_text())["facts"]
        told = [str(run), "moco", "test_efficientnet", "2", percent(facts["knn"][0]["top1"])]
        assert re.split(r"\s{2,}", line)[:5] == told
    assert lines[4] == "Settings that differ"
    assert [line.split() for line in lines[5:7]] == [["Setting", *names(runs)], ["lr", "0.01", "0.02"]]
    assert lines[7].endswith(("overlap: it may be chance.", "do not overlap."))
    assert len(lines) == 8


def test_json_is_one_document_and_a_report_has_the_curves_of_all_runs(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(["compare", *names(runs), "--json", "--out", str(tmp_path / "both"), "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["kind"], document["facts"]) == (2, "compare", {"runs": names(runs)})
    assert [table["title"] for table in document["tables"]] == ["Runs", "Settings that differ"]
    titles = [picture["title"] for picture in document["pictures"]]
    assert titles == [
        "Loss (not comparable between methods)",
        *("Effective rank", "Std of the embeddings", "Alignment", "Contrastive top-1"),
    ]
    for picture in document["pictures"]:
        drawn = (tmp_path / "both" / picture["file"]).read_text()
        assert all(shorten(name) in drawn for name in names(runs)), "each run has its curve"
    assert json.loads((tmp_path / "both" / "report.json").read_text()) == document
    page = (tmp_path / "both" / "report.html").read_text()
    assert "slow and fast" in page
    assert "<script" not in page


def test_the_better_run_is_named_and_whether_it_may_be_chance(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = scored(runs[0], tmp_path / "low", 0.5, (0.4, 0.6))
    near, far = (scored(runs[0], tmp_path / name, 0.8, (at, 0.9)) for name, at in (("near", 0.55), ("far", 0.65)))
    for best, told in ((near, "overlap: it may be chance."), (far, "do not overlap.")):
        assert ran(["compare", str(low), str(best)]) == 0
        wanted = f"Highest kNN top-1: {best} 80.0%; next: {low} 50.0%. Their 95% intervals {told}"
        assert capsys.readouterr().out.splitlines()[-1] == wanted
    assert ran(["compare", str(low), str(low)]) == 0
    assert "equal kNN top-1 50.0%." in capsys.readouterr().out


def forget(report: dict[str, Any]) -> None:
    report["facts"]["knn"] = []


def move(report: dict[str, Any]) -> None:
    report["facts"]["judged images"] = "of others"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (forget, "Fewer than two of the runs have a kNN accuracy"),
        (move, "different images: their accuracies are not comparable."),
    ],
)
def test_what_cannot_be_compared_is_told(
    runs: tuple[Path, Path], change: Callable[[dict[str, Any]], None], told: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = changed(runs[0], tmp_path / "other", change)
    assert ran(["compare", str(runs[1]), str(other)]) == 0
    assert told in capsys.readouterr().out


def test_the_same_images_count_wherever_they_lie_and_however_they_are_spelled(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(runs[0].parent / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path)
    assert ran(pretrain("copy/", Path("third"), *METHODS["moco"])) == 0
    capsys.readouterr()
    assert ran(["compare", str(runs[0]), "third"]) == 0
    assert "overlap" in capsys.readouterr().out
    others = made_images(tmp_path / "others", 24, ("cat", "dog"))
    for run in (runs[0], runs[1]):
        copy = shutil.copytree(run, tmp_path / run.name)
        changed(copy, tmp_path / f"{run.name}-2", forget)
        assert ran(["knn", f"{run.name}-2", "--data", str(others), "--no-random-init"]) == 0
    score = json.loads((tmp_path / "slow-2" / "knn" / "report.json").read_text())["facts"]["encoders"][0]["top1"]
    capsys.readouterr()
    assert ran(["compare", "slow-2", "fast-2"]) == 0
    told = capsys.readouterr().out
    assert percent(score) in told, "what lwcl knn measured counts where training measured nothing"
    assert "overlap" in told
    assert data.exists()


def unfinished(run: Path) -> None:
    (run / "report.json").unlink()


def cut(run: Path) -> None:
    (run / "report.json").write_text((run / "report.json").read_text()[:500])


def foreign(run: Path) -> None:
    (run / "report.json").write_text("[1]")


def wrong_scores(run: Path) -> None:
    changed(run, run.with_name("kept"), lambda report: report["facts"].update(knn=[{"top1": 1}]))
    (run.with_name("kept") / "report.json").replace(run / "report.json")


@pytest.mark.parametrize("harm", [unfinished, cut, foreign, wrong_scores])
def test_what_is_no_finished_run_is_refused(
    runs: tuple[Path, Path], harm: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(runs[0], tmp_path / "other")
    harm(other)
    assert ran(["compare", str(runs[1]), str(other)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{other} is not a finished run: its report.json cannot be read.\n")
    assert said.err.endswith("Give folders of finished runs.\n")
    assert said.out == ""


def test_a_report_never_replaces_that_of_a_run(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = (runs[0] / "report.json").read_bytes()
    assert ran(["compare", *names(runs), "--out", str(runs[0])]) == 2
    assert f"{runs[0]} is a run" in capsys.readouterr().err
    assert (runs[0] / "report.json").read_bytes() == before


def test_names_of_folders_steer_no_terminal_and_no_page(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = scored(runs[0], tmp_path / "\x1b[31m<b>\u202ex", 0.9, (0.8, 1.0))
    assert ran(["compare", str(runs[1]), str(hostile), "--out", str(tmp_path / "both")]) == 0
    said = capsys.readouterr()
    assert "\\x1b[31m<b>\\u202ex" in said.out
    page = (tmp_path / "both" / "report.html").read_text()
    for text in (said.out, said.err, page):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<b>" not in page
