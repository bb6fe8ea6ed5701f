"""`lwcl compare`: finished runs side by side: accuracy, cost, settings that differ, curves."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from lwcl.evaluation.publish import publish
from lwcl.formatting import percent
from lwcl.reporting.console import Screen
from lwcl.reporting.health_ranges import HEALTH_METRICS
from lwcl.reporting.report import Picture, Report, Table
from lwcl.reporting.training import metric_plot
from lwcl.runs.finished import SCORE_COLUMNS, FinishedRun
from lwcl.runs.guard import reject_run_folder

METRIC_CURVES = {
    "loss": "Loss (not comparable between methods)",
    "knn_top1": "kNN top-1",
    "effective_rank": "Effective rank",
    "std": "Std of the embeddings",
    "alignment": "Alignment",
    "top1": "Contrastive top-1",
    "agreement": "Agreement with the teacher",
    "overlap": "Overlap of the similarity distributions",
}


def compare_runs(names: Sequence[str], *, out: str | None, as_json: bool, quiet: bool) -> int:
    """Prints the runs side by side and, with `out`, writes a report there; returns the exit code."""
    reject_run_folder(out)
    runs = [FinishedRun(name) for name in names]
    images = shared_images(runs)
    scores = tuple(run.row(images) for run in runs)
    tables = Table("Runs", SCORE_COLUMNS, scores, "kNN with 95% bootstrap intervals."), differing_settings(runs)
    report = Report(
        kind="compare",
        title=" and ".join(Path(run.name).name for run in runs),
        verdict=comparison_verdict(runs, images),
        tables=tuple(table for table in tables if table.rows),
        pictures=tuple(curve_pictures(runs)),
        facts={"runs": [run.name for run in runs]},
    )
    folder = Path(out) if out else None
    publish(report, Screen(quiet=quiet), folder, tables=report.tables, lines=[report.verdict], as_json=as_json)
    return 0


def differing_settings(runs: Sequence[FinishedRun]) -> Table:
    """The settings that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "out")
    values = [(name, *(run.settings.get(name) for run in runs)) for name in names]
    rows = tuple(row for row in values if any(value != row[1] for value in row[1:]))
    return Table("Settings that differ", ("Setting", *(run.name for run in runs)), rows)


def shared_images(runs: Sequence[FinishedRun]) -> str:
    """The images on which all runs with a kNN accuracy have one; "" where there are none."""
    scored = [run.scores for run in runs if run.scores]
    return (
        next((images for images in reversed(scored[0]) if all(images in one for one in scored)), "") if scored else ""
    )


def comparison_verdict(runs: Sequence[FinishedRun], images: str) -> str:
    """Which run has the highest kNN accuracy on these images, and whether the intervals of the two best overlap."""
    if sum(bool(run.scores) for run in runs) > 1 and not images:
        return (
            "The runs were evaluated on different images: their accuracies are not comparable. "
            "Give each the same: `lwcl knn RUN --data labelled/`, then compare again."
        )
    known = [(run.scores[images], run.name) for run in runs if images in run.scores]
    scored = sorted(known, key=lambda pair: -pair[0].top1)
    if len(scored) < 2:
        return (
            "Fewer than two of the runs have a kNN accuracy: give runs with labels, or evaluate them with `lwcl knn`."
        )
    (best, name), (second, other) = scored[:2]
    if best.top1 == second.top1:
        verdict = f"{name} and {other}: equal kNN top-1 {percent(best.top1)}."
    else:
        verdict = f"Highest kNN top-1: {name} {percent(best.top1)}; next: {other} {percent(second.top1)}."
    apart = best.top1_interval[0] > second.top1_interval[1]
    return f"{verdict} Their 95% intervals " + ("do not overlap." if apart else "overlap: it may be chance.")


def curve_pictures(runs: Sequence[FinishedRun]) -> list[Picture]:
    """Each metric by epoch, a curve for each run that recorded it."""
    records = [(run.name, run.metrics) for run in runs]
    captions = {name: f"{metric.meaning}." for name, metric in HEALTH_METRICS.items()}
    pictures = (metric_plot(name, t, captions.get(name, "By epoch."), records) for name, t in METRIC_CURVES.items())
    return list(itertools.chain.from_iterable(pictures))
