"""The report of a distilled student: how much of the gap to its teacher it closes, and at what cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lwcl.formatting import percent, plural
from lwcl.reporting import plots
from lwcl.reporting.knn import EncoderResult, Interval, format_interval, top1_percent
from lwcl.reporting.report import Picture, Table

if TYPE_CHECKING:
    from lwcl.metrics.cost import Cost

GapShare = tuple[float, Interval]  # of the gap between untrained encoder and teacher, with its 95% interval
SAME_COST_TOLERANCE = 0.02  # ratios of cost that differ from 1 by less are not mentioned


class DistillationRow(NamedTuple):
    """An encoder of the comparison: its role, its accuracy, and its cost where that is known."""

    role: Literal["student", "teacher", "untrained"]
    result: EncoderResult
    cost: "Cost | None" = None


def gap_table(rows: Sequence[DistillationRow]) -> Table:
    """Accuracy and cost of each encoder, in the order given; also shown on the terminal."""
    columns = (
        *("Encoder", "Role", "Top-1", "95% interval", "Parameters, M", "MACs, M", "Size, MB"),
        *("1 image, ms", "32 images, ms", "Architecture"),
    )
    cells = []
    for role, result, cost in rows:
        scores = percent(result.top1), format_interval(result.top1_interval)
        cells.append((result.name, role, *scores, *(cost_cells(cost) if cost else [None] * 5), result.arch))
    return Table("Student and teacher", columns, tuple(cells), gap_note(rows))


def cost_cells(cost: "Cost") -> tuple[float | None, ...]:
    """The cost of an encoder as cells of the table."""
    return cost.parameters / 1e6, cost.macs / 1e6, cost.megabytes, cost.latency_1, cost.latency_32


def gap_note(rows: Sequence[DistillationRow]) -> str:
    """How the numbers in the table were measured."""
    accuracy = "kNN top-1 with 95% bootstrap intervals over images."
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return accuracy
    sizes = " and ".join(f"{size} px" for size in sorted({cost.size for cost in costs}))
    threads = " and ".join(plural(number, "thread") for number in sorted({cost.threads for cost in costs}))
    return (
        f"{accuracy} Cost of the backbone at {sizes}; median latency in float32 on this machine's CPU with {threads}; "
        "-: not measured, too slow."
    )


def gap_verdict(rows: Sequence[DistillationRow], share: GapShare | None) -> str:
    """How much of the gap to the teacher the student closes, and its cost relative to the teacher's.

    `rows` include a student, a teacher and an untrained encoder. `share` is None where the teacher is not significantly
    better than the untrained encoder (see `metrics.bootstrap.gap_closed`).
    """
    student, teacher, untrained = (first_of_role(rows, role) for role in ("student", "teacher", "untrained"))
    if share is None:
        return no_gap_verdict(student.result, teacher.result, untrained.result)
    value, (low, high) = share
    closed = f"{100 * value:.0f}% (95% interval {100 * low:.0f} to {100 * high:.0f})"
    gap = "of the gap between an untrained encoder and the teacher"
    if high < 0:
        sentence = f"The student is worse than an untrained encoder: it closes {closed} {gap}"
    elif low <= 0:
        sentence = f"No significant effect of distillation: the student closes {closed} {gap}"
    elif low > 1:
        sentence = f"The student is better than its teacher: it closes {closed} {gap}"
    else:
        sentence = f"The student closes {closed} {gap}"
    return f"{sentence}{cost_comparison(student.cost, teacher.cost)}."


def first_of_role(rows: Sequence[DistillationRow], role: str) -> DistillationRow:
    """The first encoder of a role."""
    return next(row for row in rows if row.role == role)


def no_gap_verdict(student: EncoderResult, teacher: EncoderResult, untrained: EncoderResult) -> str:
    """The verdict where the teacher is not significantly better than the untrained encoder."""
    scores = f"{percent(teacher.top1)} vs. {percent(untrained.top1)}; student: {percent(student.top1)}"
    if teacher.top1 <= untrained.top1:
        return f"No gap to close: the teacher is no better than an untrained encoder ({scores})."
    return f"The gap between an untrained encoder and the teacher is too small to measure a share of ({scores})."


def cost_comparison(student: "Cost | None", teacher: "Cost | None") -> str:
    """The student's cost relative to the teacher's, where known: `, with 0.4x its parameters and 0.3x its latency`."""
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
    """Bars of the accuracies, and accuracy against MACs where those of two encoders are known."""
    bars = [plots.Bar(f"{role}: {result.name}", *top1_percent(result), role == "untrained") for role, result, _ in rows]
    caption = "kNN top-1 in percent, with 95% bootstrap intervals over images"
    svg = plots.bars_svg(bars, "kNN top-1, %")
    pictures = [Picture("Student and teacher", f"{caption}; hatched: untrained.", svg)]
    dots = [
        plots.Dot(row.role, row.cost.macs / 1e6, *top1_percent(row.result), row.role == "untrained")
        for row in rows
        if row.cost
    ]
    if len(dots) > 1:
        caption = f"{caption}, against multiply-accumulates (MACs) per image; up and left is better."
        svg = plots.scatter_svg(dots, "MACs per image, millions", "kNN top-1, %")
        pictures.append(Picture("Accuracy and cost", caption, svg))
    return tuple(pictures)


def gap_facts(rows: Sequence[DistillationRow], share: GapShare | None) -> dict[str, Any]:
    """The comparison for report.json."""
    encoders = [
        {"role": role, **result._asdict(), "cost": cost._asdict() if cost else None} for role, result, cost in rows
    ]
    closed = {"share": share[0], "interval": list(share[1])} if share else None
    return {"gap_closed": closed, "gap": encoders}
