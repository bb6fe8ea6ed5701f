"""How much of a teacher's lead a student has taken over: the share, its interval, and what is said of it."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from lwcl.metrics.bootstrap import gap_closed
from lwcl.metrics.cost import Cost
from lwcl.reporting import plots
from lwcl.reporting.distillation import DistillationRow, gap_facts, gap_pictures, gap_table, gap_verdict
from lwcl.reporting.knn import EncoderResult
from lwcl.reporting.report import Report

SMALL = Cost(4_000_000, 200_000_000, 16.0, 6.0, 150.0, 1, 224)
LARGE = Cost(10_000_000, 2_000_000_000, 40.0, 20.0, None, 1, 224)


def right(*counts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Answers of student, teacher and untrained net, for so many images of each combination, 000 to 111."""
    kinds = torch.repeat_interleave(torch.arange(8), torch.tensor(counts))
    student, teacher, untrained = (kinds.bitwise_right_shift(bit) % 2 == 1 for bit in (2, 1, 0))
    return student, teacher, untrained


def test_a_share_is_that_of_the_right_answers() -> None:
    found = gap_closed(*right(300, 20, 200, 30, 50, 10, 300, 90))
    assert found is not None
    student, teacher, untrained = 450, 620, 150
    assert found[0] == pytest.approx((student - untrained) / (teacher - untrained))
    assert found[1] < found[0] < found[2]


def test_the_teacher_itself_has_closed_all_of_the_gap_and_an_untrained_net_nothing() -> None:
    _, teacher, untrained = right(300, 20, 200, 30, 50, 10, 300, 90)
    assert gap_closed(teacher, teacher, untrained) == (1.0, 1.0, 1.0)
    assert gap_closed(untrained, teacher, untrained) == (0.0, 0.0, 0.0)


def test_a_better_student_has_more_than_all_and_a_worse_one_less_than_nothing() -> None:
    better = gap_closed(*right(300, 0, 10, 0, 200, 0, 300, 90))
    assert better is not None
    assert better[1] > 1
    worse = gap_closed(*right(300, 100, 200, 90, 0, 0, 100, 10))
    assert worse is not None
    assert worse[2] < 0


@pytest.mark.parametrize(
    "counts",
    [(100, 50, 0, 0, 0, 0, 0, 100), (100, 0, 0, 0, 0, 0, 0, 100), (480, 10, 13, 0, 0, 0, 0, 400)],
    ids=["worse", "equal", "within chance"],
)
def test_there_is_no_share_of_a_lead_that_is_not_certain(counts: tuple[int, ...]) -> None:
    assert gap_closed(*right(*counts)) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.25, 0.03, 0.12, 0.05, 0.05, 0.05, 0.25, 0.2])
    student, teacher, untrained = (float(x) for x in (0.55, 0.62, 0.33))
    truth, covered = (student - untrained) / (teacher - untrained), 0
    for trial in range(200):
        kinds = torch.multinomial(chances, 400, replacement=True, generator=generator)
        found = gap_closed(*right(*torch.bincount(kinds, minlength=8).tolist()), seed=trial, draws=1000)
        assert found is not None
        covered += found[1] <= truth <= found[2]
    assert 180 <= covered <= 198


def test_a_paired_interval_is_narrower_than_one_of_encoders_that_err_apart() -> None:
    together = gap_closed(*right(380, 0, 170, 0, 0, 0, 300, 150))
    apart = gap_closed(
        *right(*(round(1000 * s * t * u) for s in (0.55, 0.45) for t in (0.38, 0.62) for u in (0.85, 0.15)))
    )
    assert together is not None
    assert apart is not None
    assert together[2] - together[1] < 0.8 * (apart[2] - apart[1])


def standing(role: Any, top1: float, cost: Cost | None = None) -> DistillationRow:
    return DistillationRow(
        role, EncoderResult(f"my {role}", "arch", top1, (top1 - 0.01, top1 + 0.01), 0.9, (0.89, 0.91), 20), cost
    )


def rows(teacher: float = 0.7, small: Cost | None = SMALL, large: Cost | None = LARGE) -> list[DistillationRow]:
    return [standing("student", 0.6, small), standing("teacher", teacher, large), standing("untrained", 0.3, small)]


SHARE = (0.63, (0.58, 0.68))


def test_the_verdict_tells_the_share_and_what_is_saved() -> None:
    assert gap_verdict(rows(), SHARE) == (
        "The student closes 63% (95% interval 58 to 68) of the gap between an untrained encoder and the teacher, "
        "with 0.4x its parameters, 0.1x its MACs and 0.3x its latency."
    )


@pytest.mark.parametrize(
    ("small", "large", "ending"),
    [
        (None, LARGE, "the teacher."),
        (SMALL, None, "the teacher."),
        (SMALL, LARGE._replace(latency_1=None), "with 0.4x its parameters and 0.1x its MACs."),
        (SMALL, LARGE._replace(threads=2), "with 0.4x its parameters and 0.1x its MACs."),
        (LARGE, SMALL, "with 2.5x its parameters, 10x its MACs and 3.3x its latency."),
        (SMALL, SMALL._replace(latency_1=5.0), "the teacher, at the same cost."),
    ],
)
def test_the_verdict_tells_of_the_costs_that_are_known(small: Any, large: Any, ending: str) -> None:
    assert gap_verdict(rows(small=small, large=large), SHARE).endswith(ending)


@pytest.mark.parametrize(
    ("share", "beginning"),
    [
        ((1.2, (1.1, 1.3)), "The student is better than its teacher: it closes 120% (95% interval 110 to 130) of"),
        ((0.98, (0.9, 1.1)), "The student closes 98% (95% interval 90 to 110) of"),
        ((0.1, (-0.1, 0.3)), "No significant effect of distillation"),
        (
            (-0.2, (-0.3, -0.1)),
            "The student is worse than an untrained encoder: it closes -20% (95% interval -30 to -10) of",
        ),
    ],
)
def test_the_verdict_says_where_the_student_stands(share: Any, beginning: str) -> None:
    assert gap_verdict(rows(), share).startswith(beginning)


def test_a_teacher_that_leads_nowhere_is_said_to() -> None:
    none = gap_verdict(rows(teacher=0.25), None)
    assert none.startswith("No gap to close")
    assert "25.0% vs. 30.0%; student: 60.0%" in none
    assert "too small to measure a share of (31.0% vs. 30.0%" in gap_verdict(rows(teacher=0.31), None)


def test_the_table_has_a_row_for_each_with_scores_and_costs() -> None:
    table = gap_table(rows())
    assert table.rows[0][:4] == ("my student", "student", "60.0%", "59.0 to 61.0")
    assert table.rows[1][4:] == (10.0, 2000.0, 40.0, 20.0, None, "arch")
    assert [table.numeric(column) for column in range(4, 9)] == [True] * 5
    assert "at 224 px" in table.note
    assert "with 1 thread;" in table.note
    bare = gap_table(rows(small=None, large=None))
    assert bare.rows[0][4:9] == (None,) * 5
    assert "CPU" not in bare.note
    assert "224 px and 320 px" in gap_table(rows(large=LARGE._replace(size=320))).note


def test_the_pictures_show_scores_and_what_they_cost() -> None:
    first, second = gap_pictures(rows())
    assert first.title == "Student and teacher"
    texts = [one.text for one in ElementTree.fromstring(second.svg).iter() if one.tag.endswith("text")]  # noqa: S314
    assert {"student", "teacher", "untrained", "200", "2000", "MACs per image, millions"} <= set(texts)
    assert not any("$" in (text or "") for text in texts)
    assert len(gap_pictures(rows(small=None))) == 1, "one dot is no picture"


def test_a_scatter_of_equal_costs_has_ticks_and_the_same_bytes_twice() -> None:
    dots = [plots.Dot("a", 230, 50, (40, 60)), plots.Dot("b", 230, 30, (20, 40), baseline=True)]
    svg = plots.scatter_svg(dots, "x", "y")
    assert svg == plots.scatter_svg(dots, "x", "y")
    assert ">200<" in svg
    assert "currentColor" in svg


def test_the_facts_are_json_and_all_of_it_makes_a_page() -> None:
    facts = json.loads(json.dumps(gap_facts(rows(), SHARE)))
    assert facts["gap_closed"] == {"share": 0.63, "interval": [0.58, 0.68]}
    assert [row["role"] for row in facts["gap"]] == ["student", "teacher", "untrained"]
    assert facts["gap"][0]["cost"]["macs"] == 200_000_000
    assert gap_facts(rows(large=None), None)["gap_closed"] is None
    report = Report(
        kind="distill", title="t", verdict=gap_verdict(rows(), SHARE), tables=(gap_table(rows()),),
        pictures=gap_pictures(rows()), facts=facts,
    )  # fmt: skip
    assert "and the teacher, with" in report.to_html()
