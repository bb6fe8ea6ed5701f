"""Every benchmark runs to its end on something tiny (`--smoke`), says figures, and keeps none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results.jsonl"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "--smoke" in path.read_text(encoding="utf-8"))
QUICK = {"knn", "views"}


@pytest.mark.parametrize("script", [pytest.param(s, marks=() if s in QUICK else pytest.mark.slow) for s in SCRIPTS])
@pytest.mark.timeout(900)  # some start processes, each with torch, on a machine that may be busy
def test_every_benchmark_runs_tiny_and_keeps_no_figures(script, tmp_path):
    before = RESULTS.read_bytes()
    found = subprocess.run(
        [sys.executable, BENCHMARKS / f"{script}.py", "--smoke"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "LWCL_CACHE": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr
    assert any(character.isdigit() for character in found.stdout)
    assert RESULTS.read_bytes() == before
    if script == "peers":
        ways = [line.split(" px  ")[1][:20].rstrip() for line in found.stdout.splitlines()]
        assert ways == ["papers", "lwcl fp32 store", "lwcl fp32 jpeg", "lwcl fp32 decoding"]
