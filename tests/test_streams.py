"""Output that cannot be written: the run is finished, and the exit code says what was lost."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import METHODS, made_images, pretrain

LWCL = [sys.executable, "-m", "lwcl"]


def run_in_shell(words: list[str], redirection: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """The command with a redirection of the shell's."""
    line = f'"$@" {redirection}'
    environment = {**os.environ, "LWCL_CACHE": str(cache)}
    return subprocess.run(
        ["/bin/bash", "-c", line, "bash", *LWCL, *words], env=environment, capture_output=True, text=True, timeout=250
    )


@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">/dev/full", 5), (">&-", 5), ("2>/dev/full", 0), ("2>&-", 0), ("</dev/null >/dev/full 2>&1", 5)],
)
def test_a_list_that_cannot_be_printed_is_no_bug(redirection: str, code: int, tmp_path: Path) -> None:
    done = run_in_shell(["list", "methods"], redirection, tmp_path)
    assert done.returncode == code, done.stderr
    assert "bug" not in done.stderr and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if code and "2>" not in redirection:
        assert "could not be written to stdout" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    done = run_in_shell(["list", "archs"], "| head -n 1; exit ${PIPESTATUS[0]}", tmp_path)
    assert done.returncode in (0, 141)  # 0 where all was written before the reader left
    assert done.stderr == ""


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full 2>&-", 5), (">&- 2>/dev/full", 5), ("2>/dev/full", 0)])
def test_a_run_without_a_screen_is_trained_to_its_end(redirection: str, code: int, tmp_path: Path) -> None:
    words = [*pretrain(made_images(tmp_path / "data"), tmp_path / "run", *METHODS["moco"]), "--json"]
    assert run_in_shell(words, redirection, tmp_path / "cache").returncode == code
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    assert json.loads((tmp_path / "run" / "report.json").read_text())


def test_a_run_whose_terminal_goes_away_goes_on_if_it_ignores_the_hangup(tmp_path: Path) -> None:
    words = [*pretrain(made_images(tmp_path / "data"), tmp_path / "run", *METHODS["moco"]), "--json"]
    words.remove("--quiet")
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [*LWCL, *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "LWCL_CACHE": str(tmp_path / "cache"), "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.close(terminal)
    os.read(ours, 1)  # something was drawn
    os.close(ours)
    assert process.wait(250) == 5, "the result could not be shown"
    assert (tmp_path / "run" / "report.json").exists()
