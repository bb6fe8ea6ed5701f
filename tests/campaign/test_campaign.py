"""The campaign (`run.py`) as tests: the first cases of each trial."""

import importlib
from pathlib import Path

import pytest
import run
from trials import TRIALS, Trial, run_trial, table

for module in run.MODULES:
    importlib.import_module(module)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("one", [pytest.param(one, id=one.number) for one in TRIALS])
def test_a_promise_holds(one: Trial, tmp_path: Path) -> None:
    rows = list(run_trial(one, tmp_path, 3))
    assert [row["why"] for row in rows if "why" in row] == []
    assert one.promise in table(tmp_path)
