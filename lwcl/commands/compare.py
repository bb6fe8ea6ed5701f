"""`lwcl compare`: runs side by side, from what they left: scores, cost, settings that differ, curves."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lwcl.formatting import escape, percent
from lwcl.reporting import health_words, plots
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.report import Picture, Report, Table
from lwcl.runs.finished import FinishedRun
from lwcl.runs.guard import reject_run_folder
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment

METRIC_CURVES = {
    "loss": "Loss (methods' losses are not on one scale)",
    "knn_top1": "kNN top-1",
    "effective_rank": "Effective rank",
    "std": "Std of the embeddings",
    "alignment": "Alignment",
    "top1": "Contrastive top-1",
    "agreement": "Agreement with the teacher",
}


SCORE_COLUMNS = (
    "Run",
    "Method",
    "Architecture",
    "Epochs",
    "kNN top-1",
    "Interval",
    "Above untrained",
    "Rank",
    "Images/s",
    "Time",
)


def compare_runs(runs: Sequence[str], *, out: str | None, as_json: bool, quiet: bool) -> int:
    """Prints the runs side by side and, with `out`, writes a report there; gives the exit code."""
    reject_run_folder(out)
    left = [FinishedRun(name) for name in runs]
    tables = (
        Table("Runs", SCORE_COLUMNS, tuple(one.row() for one in left), "kNN with 95% bootstrap intervals over images."),
        differing_settings(left),
    )
    report = Report(
        kind="compare",
        title=" and ".join(Path(one.name).name for one in left),
        verdict=comparison_verdict(left),
        tables=tuple(table for table in tables if table.rows),
        pictures=tuple(curve_pictures(left)),
        facts={"runs": [one.name for one in left]},
        environment=describe_environment(),
        command=current_command(),
    )
    if as_json:
        print_json(report.document())
    else:
        for table in report.tables:
            print_table(table.title, table.columns, table.rows)
        write_line(escape(report.verdict), sys.stdout)
    if out:
        report.write(Path(out))
        Screen(quiet=quiet).say(f"Report: {Path(out) / 'report.html'}")
    return 0


def differing_settings(left: Sequence[FinishedRun]) -> Table:
    """The settings that are not the same in all runs."""
    names = list(dict.fromkeys(name for one in left for name in one.settings))
    rows = []
    for name in names:
        values = [one.settings.get(name) for one in left]
        if name != "out" and any(value != values[0] for value in values):
            rows.append((name, *values))
    return Table("Settings that differ", ("Setting", *(one.name for one in left)), tuple(rows))


def comparison_verdict(left: Sequence[FinishedRun]) -> str:
    """Which run is best by kNN, and whether the images judged can tell it from the next."""
    images = {(one.facts.get("data"), str(one.settings.get("monitor"))) for one in left}
    if len(images) > 1:
        return "The runs were trained or judged on different images: their scores cannot be compared."
    scored = sorted(((one.judged, one.name) for one in left if one.judged), key=lambda pair: -pair[0].top1)
    if len(scored) < 2:
        return "Fewer than two of the runs have a kNN score: give runs with labels, or judge them with `lwcl knn`."
    (best, name), (second, other) = scored[:2]
    told = f"{name} is best: {percent(best.top1)} by kNN, {other} {percent(second.top1)}."
    if best.top1 == second.top1:
        told = f"{name} and {other} are equal: {percent(best.top1)} by kNN."
    apart = best.top1_interval[0] > second.top1_interval[1]
    return f"{told} " + ("Their intervals do not touch." if apart else "Their intervals overlap: it may be chance.")


def curve_pictures(left: Sequence[FinishedRun]) -> list[Picture]:
    """The curves of all runs that have them, in one picture each."""
    pictures = []
    for name, title in METRIC_CURVES.items():
        series = []
        for one in left:
            known = [record for record in one.metrics if record.get(name) is not None]
            if known:
                series.append(plots.Series(one.name, [r["epoch"] for r in known], [r[name] for r in known]))
        if series:
            told = health_words.HEALTH_METRICS.get(name)
            caption = f"{told.meaning[0].upper()}{told.meaning[1:]}." if told else "By epoch, each run its own curve."
            pictures.append(
                Picture(title, caption, plots.curves_svg(series, "epoch", limit=told.limit if told else None))
            )
    return pictures
