"""A run folder is made, gone on with, or refused; what is written in it while a run goes is whole after a kill."""

import errno
import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from crash import KILLED, in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from lwcl.errors import StorageError, UsageError
from lwcl.runs import folder
from lwcl.runs.folder import RunFolder, default_out
from lwcl.runs.guard import CONFIG_HEADING, OLD_HEADING
from lwcl.system.environment import describe_environment
from lwcl.system.lock import is_locked

SETTINGS: dict[str, Any] = {
    "arch": "resnet18",
    "lr": 1e-05,
    "data": ("a", "\udcff: [b]"),
    "seed": 0,
    "workers": 2,
    "recipe": None,
}
FREE = frozenset({"workers", "out"})


def run_in(path: Path, *, finish: bool = False, **changed: Any) -> None:
    """A run that is interrupted, or finished."""
    with RunFolder.open(path, SETTINGS | changed, ignore=FREE) as run:
        run.append_metrics({"step": 1, "loss": 0.5})
        if finish:
            run.report_json.write_text("{}")


def test_the_table_of_a_long_run_is_written_without_holding_its_records(tmp_path: Path) -> None:
    names = [f"metric {number}" for number in range(20)]
    with RunFolder.open(tmp_path / "run", SETTINGS) as run:
        lines = (json.dumps({"step": step, **dict.fromkeys(names, step / 7)}) + "\n" for step in range(2000))
        run.metrics_jsonl.write_text("".join(lines) + '{"step": 2000, "cut')
        tracemalloc.start()
        run.write_metrics_csv()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        written = run.metrics_csv.read_text().splitlines()
        assert written[0] == ",".join(["step", *names]) and len(written) == 2001
        assert peak < 4 * run.metrics_csv.stat().st_size, "all records at once take 10 times as much"


def test_a_new_run_says_what_how_and_with_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/lwcl", "pretrain", "--data", "my photos"])
    with RunFolder.open(tmp_path / "deep" / "run", SETTINGS) as run:
        assert not run.resumed
        assert yaml.safe_load(run.config.read_text()) == SETTINGS | {"data": ["a", "\udcff: [b]"]} == run.settings()
        assert (run.path / "command.txt").read_text() == "lwcl pretrain --data 'my photos'\n"
        made_with = json.loads((run.path / "env.json").read_text())
    assert (made_with["torch"][:2], made_with["python"][:2]) == ("2.", "3.")
    assert all(made_with[name] for name in ("lwcl", "platform", "cpu", "cpus", "host", "folder", "started"))


def test_an_interrupted_run_of_the_same_settings_goes_on(tmp_path: Path) -> None:
    run_in(tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with RunFolder.open(tmp_path, SETTINGS | {"workers": 0, "out": "x"}, ignore=FREE) as run:
        assert run.resumed
        assert run.changed == {}
        assert run.metrics() == [{"step": 1, "loss": 0.5}]
    assert (tmp_path / "config.yaml").read_text() == before
    assert len((tmp_path / "command.txt").read_text().splitlines()) == 2


def test_a_resumed_run_knows_what_is_not_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path)
    monkeypatch.setattr(
        folder, "describe_environment", lambda: describe_environment() | {"torch": "9.9", "host": "another"}
    )
    with RunFolder.open(tmp_path, SETTINGS) as run:
        assert run.changed == {"torch": (json.dumps(describe_environment()["torch"]), '"9.9"')}


@pytest.mark.parametrize(
    ("finish", "changed", "words"),
    [
        (True, {}, r"holds a finished run.\nIts settings are the same.\n.*--overwrite.*--out"),
        (True, {"seed": 1}, r"holds a finished run.\nSettings differ: seed: 0 -> 1.\n.*--overwrite.*--out"),
        (False, {"lr": 0.1, "b": 1}, r"another run.\nSettings differ: lr: 1e-05 -> 0.1; b: absent -> 1.\n.*--out"),
    ],
)
def test_a_finished_or_other_run_is_refused_and_can_be_replaced(
    tmp_path: Path, finish: bool, changed: dict[str, Any], words: str
) -> None:
    run_in(tmp_path, finish=finish)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=words):
        RunFolder.open(tmp_path, SETTINGS | changed, ignore=FREE)
    assert not is_locked(tmp_path)
    with RunFolder.open(tmp_path, SETTINGS | changed, overwrite=True) as run:
        assert not run.resumed
        assert run.metrics() == []
        assert sorted(os.listdir(tmp_path)) == [".lock", "command.txt", "config.yaml", "env.json", "notes.txt"]


def test_resume_says_whether_a_run_must_or_must_not_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        RunFolder.open(tmp_path, SETTINGS, resume="must")
    run_in(tmp_path)
    with pytest.raises(UsageError, match="holds an unfinished run"):
        RunFolder.open(tmp_path, SETTINGS, resume="never")
    RunFolder.open(tmp_path, SETTINGS, resume="must").close()


@pytest.mark.parametrize("name", ["photo.jpg", "checkpoints", "config.yaml"])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("seed: 0\n")
    with pytest.raises(UsageError, match="not a run of lwcl"):
        RunFolder.open(tmp_path, SETTINGS, overwrite=True)
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(UsageError, match="is not a folder"):
        RunFolder.open(tmp_path / name, SETTINGS)


def test_the_run_of_an_older_version_is_refused_and_can_be_replaced(tmp_path: Path) -> None:
    run_in(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace(CONFIG_HEADING, OLD_HEADING))
    with pytest.raises(UsageError, match="older version"):
        RunFolder.open(tmp_path, SETTINGS, ignore=FREE)
    RunFolder.open(tmp_path, SETTINGS, overwrite=True).close()
    assert config.read_text().startswith(CONFIG_HEADING)


def test_a_setting_decided_after_the_start_is_recorded(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, SETTINGS) as run:
        run.record_setting("precision", "bf16")
        assert run.settings() == SETTINGS | {"data": ["a", "\udcff: [b]"], "precision": "bf16"}


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00", "!!python/object/apply:os.system [ls]"])
def test_a_settings_file_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path: Path, text: str) -> None:
    run_in(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().splitlines(keepends=True)[0] + text)
    with pytest.raises(UsageError, match=r"(?s)Cannot read .*config\.yaml.*--overwrite"):
        RunFolder.open(tmp_path, SETTINGS)


def test_a_read_only_folder_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="read-only"):
        RunFolder.open(tmp_path / "run", SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(StorageError, match="read-only"):
            RunFolder.open(tmp_path, SETTINGS)
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("point", ["config.write", "file.written", "file.renamed", "file.written@2", "file.renamed@2"])
def test_a_run_that_is_killed_while_it_begins_can_begin_again(tmp_path: Path, point: str) -> None:
    assert in_child(lambda: RunFolder.open(tmp_path, SETTINGS), fault=point) == KILLED
    with RunFolder.open(tmp_path, SETTINGS) as run:
        names = sorted(os.listdir(run.path))
    assert names == [".lock", "command.txt", "config.yaml", "env.json"]


def test_metrics_are_valid_json_and_whole_after_a_kill(tmp_path: Path) -> None:
    def write_three() -> None:
        with RunFolder.open(tmp_path, SETTINGS) as run:
            for step in (1, 2, 3):
                run.append_metrics({"step": step, "loss": math.nan, "worst": math.inf, "name": "\udcff\n[red]"})

    assert in_child(write_three, fault="metrics.append@3") == KILLED
    same = {"loss": None, "worst": None, "name": "\udcff\n[red]"}
    assert RunFolder(tmp_path).metrics() == [{"step": 1} | same, {"step": 2} | same]


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.integers(1, 30), unique=True).map(sorted), at=st.integers(0, 30), torn=st.integers(0, 26))
def test_a_resumed_run_drops_what_it_will_write_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], at: int, torn: int
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    for step in steps:
        run.append_metrics({"step": step, "loss": step / 3})
    whole = run.metrics_jsonl.read_bytes() if steps else b""
    run.metrics_jsonl.write_bytes(whole + b'{"step": 1, "loss": 0.123}'[:torn])
    assert [record["step"] for record in run.metrics()] == steps
    run.truncate_metrics(at)
    assert run.metrics_jsonl.read_bytes() == b"".join(whole.splitlines(keepends=True)[: sum(s <= at for s in steps)])


def test_the_log_has_times_and_bad_files_have_reasons(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.truncate_metrics(3)
    run.write_bad_files([])
    assert os.listdir(tmp_path) == []
    run.log("begun")
    run.log("bad name: \udcff")
    assert [line.split(" ", 2)[2] for line in run.log_txt.read_text().splitlines()] == ["begun", r"bad name: \udcff"]
    run.write_bad_files([{"file": "a\udcff.jpg", "reason": "truncated"}, {"file": "b.png", "reason": "<script>"}])
    assert [json.loads(line)["file"] for line in run.bad_files_jsonl.read_text().splitlines()] == [
        "a\udcff.jpg",
        "b.png",
    ]


def test_without_out_the_same_command_goes_on_and_another_gets_a_new_folder(tmp_path: Path) -> None:
    def chosen(resume: folder.ResumeMode = "auto", **changed: Any) -> str:
        asked = SETTINGS | changed
        return default_out("pretrain-moco-timm/resnet18", asked, resume=resume, ignore=FREE, runs=tmp_path).name

    assert chosen() == "pretrain-moco-timm-resnet18-1"
    run_in(tmp_path / chosen())
    assert chosen(workers=9) == "pretrain-moco-timm-resnet18-1"
    assert chosen(resume="never") == chosen(seed=1) == "pretrain-moco-timm-resnet18-2"
    run_in(tmp_path / chosen(seed=1), seed=1)
    assert chosen() == "pretrain-moco-timm-resnet18-1"
    with RunFolder.open(tmp_path / chosen(), SETTINGS):
        assert chosen() == "pretrain-moco-timm-resnet18-3"
    run_in(tmp_path / chosen(), finish=True)
    assert chosen() == "pretrain-moco-timm-resnet18-3"
    (tmp_path / "pretrain-moco-timm-resnet18-2" / "config.yaml").write_text("a: [")
    assert chosen(seed=1) == "pretrain-moco-timm-resnet18-3"
