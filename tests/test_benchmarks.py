"""The benchmark against peers runs to its end without the peers' environment, on a tiny net."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes, each with torch, on a machine that may be busy
def test_the_comparison_with_peers_measures_the_papers_way_and_both_of_ours(tmp_path):
    rows = tmp_path / "rows.jsonl"
    found = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "peers.py", "--smoke", "--out", rows],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 0, found.stderr
    assert [line.split(" px  ")[1][:20].rstrip() for line in found.stdout.splitlines()] == [
        "papers",
        "lwcl fp32 store",
        "lwcl fp32 decoding",
    ]
    assert not rows.exists()
