"""The report of a training run: kNN accuracy, embedding health, throughput, and settings."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwcl.formatting import duration, percent, plural
from lwcl.reporting import plots
from lwcl.reporting.health_ranges import (
    COLLAPSE,
    COLLAPSE_REMEDIES,
    FULL_RANK_BATCH,
    HEALTH_METRICS,
    HealthAlarm,
    format_metric,
    known_metrics,
    out_of_range,
    rank_remedies,
)
from lwcl.reporting.report import Picture, Report, Table, flatten_facts
from lwcl.settings import SettingValue

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

NOTHING_MEASURED = "Nothing was measured: the run ended before its first record."
MetricRecords = Sequence[Mapping[str, Any]]
Chance = tuple[float, float | None]  # top-1, and the loss if known, of guessing


def training_report(
    kind: str,
    title: str,
    metrics: MetricRecords,
    *,
    settings: Mapping[str, SettingValue],
    facts: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    timing: Mapping[str, float | None] | None = None,
    samples: "NDArray[numpy.uint8] | None" = None,
    colours: str = "",
    chance: Chance | None = None,
    ended: bool = True,
) -> Report:
    """The report of the command `kind` on a run with these `metrics`, the records of metrics.jsonl.

    A record has `step` and `epoch`, and any of `loss`, `lr`, `grad_norm`, `knn_top1` (a fraction in [0, 1]) and the
    names of `HEALTH_METRICS`. `timing` is what `TrainingDisplay.timing` returned. `samples` are images as stored, then
    their views: (images, 1 + views, height, width, 3) uint8, in these false `colours`, if any. `chance` is what
    `Method.chance` returns. Of a run that has not ended it is not said whether its task is solved.
    """
    batch_size = settings["batch_size"].value if "batch_size" in settings else FULL_RANK_BATCH
    timing = timing or {}
    run = Table("Run", ("Property", "Value"), tuple(flatten_facts(facts)))
    tables = [last_values_table(metrics, batch_size, ended), throughput_table(timing)]
    names = dict.fromkeys(name for record in metrics for name in record)
    latest = {name: last_value(metrics, name) for name in names}
    return Report(
        kind=kind,
        title=title,
        verdict=training_verdict(metrics, settings, batch_size, timing.get("seconds"), chance, ended),
        tables=tuple(table for table in tables if table.rows),
        details=(run,) if run.rows else (),
        pictures=(*training_curves(metrics), *sample_sheet(samples, colours)),
        facts={**facts, "timing": dict(timing), "last": latest},
        settings=settings,
        environment=environment,
        command=command,
    )


def metric_values(metrics: MetricRecords, name: str) -> list[float]:
    """The recorded values of `name`, in order."""
    return [record[name] for record in metrics if record.get(name) is not None]


def last_value(metrics: MetricRecords, name: str) -> Any:
    """The last recorded value of `name`, None where there is none."""
    return next(iter(metric_values(metrics, name)[-1:]), None)


def final_health(metrics: MetricRecords) -> dict[str, float]:
    """The last recorded value of each metric of embedding health."""
    return known_metrics({name: last_value(metrics, name) for name in HEALTH_METRICS})


def training_verdict(
    metrics: MetricRecords,
    settings: Mapping[str, SettingValue],
    batch_size: int,
    seconds: float | None,
    chance: Chance | None,
    ended: bool,
) -> str:
    """A line each for the kNN accuracy if it was monitored, embedding health, the training task, and its length."""
    lines, when = [], "at the end" if ended else "now"
    if scores := metric_values(metrics, "knn_top1"):
        lines.append(f"kNN top-1 while training: {percent(scores[0])} at first, {percent(scores[-1])} {when}.")
    if final_health(metrics):
        lines.append(health_verdict(metrics, settings, batch_size))
    if ended and chance and metric_values(metrics, "top1"):
        lines.append(task_verdict(metrics, *chance))
    if losses := metric_values(metrics, "loss"):
        took = f" in {duration(seconds)}" if seconds is not None else ""
        steps = plural(last_value(metrics, "step") or 0, "step")
        done = f"{plural(float(last_value(metrics, 'epoch') or 0), 'epoch')} ({steps})"
        highest, end = max(losses), final_mean(losses)
        lines.append(f"Trained for {done}{took}; loss {highest:.3g} at its highest, {end:.3g} {when}.")
    return "\n".join(lines) or NOTHING_MEASURED


def final_mean(values: Sequence[float]) -> float:
    """The mean of the last tenth of the values."""
    return statistics.fmean(values[-max(1, len(values) // 10) :])


def task_verdict(metrics: MetricRecords, chance: float, chance_loss: float | None) -> str:
    """Whether the task that the loss sets was learned: top-1 and loss at the end, against those of guessing."""
    top1, loss = (final_mean(metric_values(metrics, name)) for name in ("top1", "loss"))
    text = f"top-1 {percent(top1)} (guessing: {percent(chance)})"
    text += "" if chance_loss is None else f", loss {loss:.3g} (guessing: {chance_loss:.3g})"
    if top1 < 2 * chance or (chance_loss is not None and loss >= chance_loss):
        return f"Problem: the training task is not solved, {text}; train for longer, or try another --lr."
    slightly = "" if top1 >= HEALTH_METRICS["top1"].limit else "only slightly "
    return f"Training task: {slightly}better than guessing, {text}."


def run_headline(gain: tuple[float, tuple[float, float]], verdict: str) -> str:
    """Whether training helped, by the paired gain in accuracy, and the first problem that its verdict names."""
    value, (low, high) = gain
    effect = "helped" if low > 0 else "hurt" if high < 0 else "made no significant difference"
    problems = [line.removeprefix("Problem: ") for line in verdict.split("\n") if line.startswith("Problem: ")]
    trouble = [
        f", {'but' if low > 0 else 'and'} there is a problem: {one.split(';')[0].rstrip('.')}" for one in problems
    ]
    return f"Training {effect} ({100 * value:+.1f} points of kNN top-1){''.join(trouble[:1])}."


def health_verdict(metrics: MetricRecords, settings: Mapping[str, SettingValue], batch_size: int) -> str:
    """Whether the embedding was healthy at the end of a run; if not, what is wrong and what to try."""
    final = final_health(metrics)
    core = {name: final[name] for name in ("std", "effective_rank") if name in final}
    values = ", ".join(f"{HEALTH_METRICS[name].title} {format_metric(name, value)}" for name, value in core.items())
    low = [name for name, value in core.items() if out_of_range(name, value, batch_size)]
    if core and len(low) == len(core):
        return f"Problem: {COLLAPSE} ({values}); {COLLAPSE_REMEDIES}."
    alarm = HealthAlarm(settings)
    for rank in metric_values(metrics, "effective_rank"):
        alarm.update(rank, collapsed=False)
    if alarm.rank_has_fallen:
        return f"Problem: {alarm.rank_fall()}."
    if "effective_rank" in low:
        return f"Problem: possible dimensional collapse: low effective rank ({values}); {rank_remedies(settings)}."
    if low:
        return f"Problem: the embeddings are close together ({values}); {COLLAPSE_REMEDIES}."
    return f"Embedding health: no problem found ({values})."


def last_values_table(metrics: MetricRecords, batch_size: int, ended: bool) -> Table:
    """The last value of the loss, the kNN accuracy and each health metric, marked where it is out of range."""
    rows: list[tuple[str, str, str]] = []
    if losses := metric_values(metrics, "loss"):
        rows.append(("loss", f"{losses[-1]:.4f}", f"lowest: {min(losses):.4f}"))
    if scores := metric_values(metrics, "knn_top1"):
        rows.append(("kNN top-1", percent(scores[-1]), f"best: {percent(max(scores))}"))
    for name, value in final_health(metrics).items():
        word = out_of_range(name, value, batch_size)
        text = format_metric(name, value) + (f" ({word})" if word else "")
        rows.append((HEALTH_METRICS[name].title, text, HEALTH_METRICS[name].meaning))
    return Table("Final metrics" if ended else "Metrics now", ("Metric", "Value", "Meaning"), tuple(rows))


def throughput_table(timing: Mapping[str, float | None]) -> Table:
    """Images per second, total time, and time spent waiting for data."""
    formats = {
        "images_per_second": ("images per second (median)", "{:,.0f}".format),
        "seconds": ("total time", duration),
        "waited": ("share of the time spent waiting for data", percent),
    }
    known = ((text, timing.get(name)) for name, text in formats.items())
    rows = ((title, as_text(value)) for (title, as_text), value in known if value is not None)
    return Table("Throughput", ("Quantity", "Value"), tuple(rows))


def training_curves(metrics: MetricRecords) -> Iterator[Picture]:
    """A plot of each metric that was recorded."""
    plotted = {
        "loss": ("Loss", "Training loss. With a queue of keys it may rise at first, while random keys are replaced."),
        "knn_top1": ("kNN top-1", "kNN top-1 on the images of --monitor, in percent."),
        **{name: (metric.title.capitalize(), f"{metric.meaning}.") for name, metric in HEALTH_METRICS.items()},
        "lr": ("Learning rate", "Learning rate per step."),
        "grad_norm": ("Gradient norm", "Norm of the gradient over all trained parameters."),
    }
    for name, (title, caption) in plotted.items():
        yield from metric_plot(name, title, caption, [(title, metrics)])


def metric_plot(name: str, title: str, caption: str, runs: Sequence[tuple[str, MetricRecords]]) -> Iterator[Picture]:
    """A plot of one metric over epochs, a curve for each run that recorded it. `runs`: (label, records)."""
    scale = 100 if name == "knn_top1" else 1
    series = [
        plots.Series(label, [r["epoch"] for r in known], [scale * r[name] for r in known])
        for label, metrics in runs
        if (known := [record for record in metrics if record.get(name) is not None])
    ]
    if series:
        limit = HEALTH_METRICS[name].limit if name in HEALTH_METRICS else None
        svg = plots.curves_svg(series, "epoch", markers=name == "knn_top1", limit=limit)
        dotted = " Dotted: limit of the normal range." if limit is not None else ""
        yield Picture(title, f"{caption}{dotted}", svg)


def sample_sheet(samples: "NDArray[numpy.uint8] | None", colours: str) -> Iterator[Picture]:
    """The sheet of augmented samples, if there are any."""
    if samples is not None and len(samples):
        caption = "Each row: an image as stored, then its augmented views as the network sees them."
        caption += f" In {colours}." * bool(colours)
        yield Picture("Augmented samples", caption, png=plots.sheet_png(samples))
