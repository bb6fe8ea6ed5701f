"""The report of a distilled student: how much of its teacher's lead it has taken over, and what it saves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lwcl.formatting import percent
from lwcl.reporting import plots
from lwcl.reporting.knn import EncoderResult, Interval, format_interval
from lwcl.reporting.report import Picture, Table

if TYPE_CHECKING:
    from lwcl.metrics.cost import Cost

GapShare = tuple[float, Interval]  # of the teacher's lead: 1 is all of it; with its 95 % interval
SAME_COST_TOLERANCE = 0.02  # ratios of cost that differ from 1 by less are not worth a word


class DistillationRow(NamedTuple):
    """An encoder beside others: what it is there for, how it did, and what it costs, where that is known."""

    role: Literal["student", "teacher", "untrained"]
    judged: EncoderResult
    cost: "Cost | None" = None


def gap_table(rows: Sequence[DistillationRow]) -> Table:
    """The numbers of each encoder, in the order given; also what the terminal shows."""
    columns = (
        *("Encoder", "Role", "Top-1", "Top-1 interval", "Parameters, M", "MACs, M", "Size, MB"),
        *("1 image, ms", "32 images, ms", "Architecture"),
    )
    cells = []
    for role, judged, cost in rows:
        scores = percent(judged.top1), format_interval(judged.top1_interval)
        cells.append((judged.name, role, *scores, *(cost_cells(cost) if cost else [None] * 5), judged.arch))
    return Table("Student and teacher", columns, tuple(cells), gap_note(rows))


def cost_cells(cost: "Cost") -> tuple[float | None, ...]:
    """The cells of a cost."""
    return cost.parameters / 1e6, cost.macs / 1e6, cost.megabytes, cost.latency_1, cost.latency_32


def gap_note(rows: Sequence[DistillationRow]) -> str:
    """How the numbers of the table were measured."""
    told = "kNN top-1 with 95% bootstrap intervals over images."
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return told
    sizes = " and ".join(f"{size} px" for size in sorted({cost.size for cost in costs}))
    threads = " and ".join(str(number) for number in sorted({cost.threads for cost in costs}))
    return (
        f"{told} Costs are those of the backbone for images of {sizes}; times are medians in float32 on this machine's "
        f"CPU with {threads} thread{'' if threads == '1' else 's'}, and - is a batch that would have taken too long."
    )


def gap_verdict(rows: Sequence[DistillationRow], share: GapShare | None) -> str:
    """What the student has taken over of its teacher's lead, and at what cost.

    `rows` have a student and a teacher, and an untrained encoder; the first of each counts. `share` is None where the
    teacher's lead over the untrained encoder is not certain (see `measures.gap`).
    """
    student, teacher, untrained = (first_of_role(rows, role) for role in ("student", "teacher", "untrained"))
    if share is None:
        return no_gap_verdict(student.judged, teacher.judged, untrained.judged)
    value, (low, high) = share
    told = f"{100 * value:.0f}% ({100 * low:.0f} to {100 * high:.0f})"
    lead = "of the teacher's lead over an untrained net"
    if high < 0:
        sentence = f"The student is worse than an untrained net: it has taken over {told} {lead}"
    elif low <= 0:
        sentence = f"That the student has learned from its teacher cannot be told: it has taken over {told} {lead}"
    elif low > 1:
        sentence = f"The student is better than its teacher: it has {told} {lead}"
    else:
        sentence = f"The student has taken over {told} {lead}"
    return f"{sentence}{cost_comparison(student.cost, teacher.cost)}."


def first_of_role(rows: Sequence[DistillationRow], role: str) -> DistillationRow:
    """The first encoder of a role."""
    return next(row for row in rows if row.role == role)


def no_gap_verdict(student: EncoderResult, teacher: EncoderResult, untrained: EncoderResult) -> str:
    """The verdict where the teacher has no lead, or none that is certain."""
    scores = f"{percent(teacher.top1)} against {percent(untrained.top1)}"
    reached = f"The student reaches {percent(student.top1)}."
    if teacher.top1 <= untrained.top1:
        return f"There is no gap to close: the teacher is no better than an untrained net ({scores}). {reached}"
    return f"The teacher's lead over an untrained net is too small to measure a share of ({scores}). {reached}"


def cost_comparison(student: "Cost | None", teacher: "Cost | None") -> str:
    """The student's cost beside the teacher's: `, with 0.4x its parameters and 0.3x its latency`; what is known."""
    if student is None or teacher is None:
        return ""
    pairs = {
        "parameters": (student.parameters, teacher.parameters),
        "MACs": (student.macs, teacher.macs),
        "latency": (student.latency_1, teacher.latency_1) if student.threads == teacher.threads else (None, None),
    }
    ratios = {name: one / other for name, (one, other) in pairs.items() if one is not None and other}
    if all(abs(ratio - 1) < SAME_COST_TOLERANCE for name, ratio in ratios.items() if name != "latency"):
        return ", at the same cost"
    *most, last = (f"{f'{ratio:.2g}' if ratio < 10 else round(ratio)}x its {name}" for name, ratio in ratios.items())
    return f", with {', '.join(most)}{' and ' if most else ''}{last}"


def gap_pictures(rows: Sequence[DistillationRow]) -> tuple[Picture, ...]:
    """Bars of the scores, and the scores against multiply-accumulates where those of two encoders are known."""
    drawn = [
        plots.Bar(f"{role}: {judged.name}", *top1_percent(judged), role == "untrained") for role, judged, _ in rows
    ]
    told = "kNN top-1 in percent, with 95% bootstrap intervals over images"
    pictures = [Picture("Student and teacher", f"{told}; hatched: untrained.", plots.bars_svg(drawn, "kNN top-1, %"))]
    dots = [
        plots.Dot(row.role, row.cost.macs / 1e6, *top1_percent(row.judged), row.role == "untrained")
        for row in rows
        if row.cost
    ]
    if len(dots) > 1:
        caption = f"{told}, against multiply-accumulates (MACs) for an image; up and left is better."
        svg = plots.scatter_svg(dots, "MACs of an image, millions", "kNN top-1, %")
        pictures.append(Picture("Worth and cost", caption, svg))
    return tuple(pictures)


def top1_percent(judged: EncoderResult) -> tuple[float, Interval]:
    """Top-1 and its interval in percent."""
    low, high = judged.top1_interval
    return 100 * judged.top1, (100 * low, 100 * high)


def gap_facts(rows: Sequence[DistillationRow], share: GapShare | None) -> dict[str, Any]:
    """The numbers for report.json."""
    encoders = [
        {"role": role, **judged._asdict(), "cost": cost._asdict() if cost else None} for role, judged, cost in rows
    ]
    closed = {"share": share[0], "interval": list(share[1])} if share else None
    return {"gap_closed": closed, "gap": encoders}
