"""Benchmarks that give all ways the same minutes: what they keep, compare and print. Nothing is trained here."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORK = {"set": "imagenette", "arch": "resnet18", "size": 64, "seed": 0, "cpus": 1}
SCORES = {"probe": 0.5, "probe_interval": (0.4, 0.6), "clusters": 0.3, "rank": 9.0, "queries": 8}
COST = {"steps": 10, "images_per_second": 50.0, "cpu_s": 60.0, "seconds": 60.0}


@pytest.fixture
def timed(monkeypatch):
    """The module that measures, with the benchmarks importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from peer_ways import timed

    return timed


def row(way: str, right: str, minutes: float = 5.0) -> dict[str, object]:
    """A row whose eight queries are right as the digits say."""
    number = f"{int(right, 2):x}"
    top1 = right.count("1") / len(right)
    told = {"right": number, "probe_right": number, "top1": top1, "top1_interval": (top1, top1)}
    return {**WORK, **SCORES, **COST, **told, "way": way, "minutes": minutes}


def test_a_difference_is_paired_by_query(timed):
    gain, low, high = timed.difference(row("a", "00001111"), row("b", "00000011"))
    assert gain == pytest.approx(25)
    assert low >= 0  # no query is right in the second row alone
    assert high <= 75
    assert timed.difference(row("a", "01010101"), row("b", "10101010"))[0] == 0


def test_rows_are_found_again_and_so_not_measured_twice(timed, tmp_path):
    rows = timed.Rows(tmp_path / "rows.jsonl")
    rows.add(row("light", "00001111"))
    again = timed.Rows(tmp_path / "rows.jsonl")
    assert again.find(**WORK, way="light", minutes=5.0)["top1"] == 0.5
    assert again.find(**WORK, way="light", minutes=2.0) is None
    assert again.find(**{**WORK, "seed": 1}, way="light", minutes=5.0) is None


def test_the_tables_compare_the_ways_that_are_there(timed, tmp_path):
    from peer_ways.evidence_tables import markdown

    rows = timed.Rows(tmp_path / "rows.jsonl")
    for one in (row("untrained", "00000001", 0), row("default", "01111111"), row("light", "00000011")):
        rows.add(one)
    text = "\n".join(markdown(rows, ["untrained", "default", "light"]))
    assert "### imagenette, 5 minutes on one core" in text
    assert "| the default leads light | **+62.5" in text
    assert "moco-v2" not in text
    assert "| light | 25.0 (25.0 to 25.0) | +12.5 (" in text


@pytest.mark.parametrize("name", ["learning.jsonl", "evidence.jsonl"])
def test_the_kept_rows_say_where_and_what_they_measured(name):
    lines = [json.loads(line) for line in (BENCHMARKS / name).read_text().splitlines()]
    assert lines
    assert all({"cpu", "cpus", "date", "arch", "set", "way", "minutes", "right"} <= set(line) for line in lines)
    known = [(line["set"], line["arch"], line["way"], line["minutes"], line["seed"], line["cpus"]) for line in lines]
    assert len(known) == len(set(known))
