"""The report of a training: did it learn, is its embedding healthy, how fast was it, and how was it made."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwcl.formatting import duration, percent
from lwcl.reporting import health_words, plots
from lwcl.reporting.report import Picture, Report, Table, flatten_facts
from lwcl.settings import SettingValue

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

MetricRecords = Sequence[Mapping[str, Any]]


def training_report(
    kind: str,
    title: str,
    metrics: MetricRecords,
    *,
    settled: Mapping[str, SettingValue],
    facts: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    timing: Mapping[str, float | None] | None = None,
    samples: "NDArray[numpy.uint8] | None" = None,
) -> Report:
    """The report of the command `kind` on a training that left `metrics`, the records of metrics.jsonl.

    A record has `step` and `epoch`, and any of `loss`, `lr`, `grad_norm`, `monitor` (kNN top-1, a share of 1) and the
    names of `judgement.MEASURES`. `timing` is what `Training.timing` gave. `samples` are images as stored, then their
    views: (images, 1 + views, height, width, 3) uint8.
    """
    batch_size = settled["batch_size"].value if "batch_size" in settled else health_words.FULL_RANK_BATCH
    told = Table("About the run", ("What", "Value"), tuple(flatten_facts(facts)))
    tables = [final_values_table(metrics, batch_size), throughput_table(timing or {}), told]
    return Report(
        kind=kind,
        title=title,
        verdict=training_verdict(metrics, batch_size, (timing or {}).get("seconds")),
        tables=tuple(table for table in tables if table.rows),
        pictures=(*training_curves(metrics), *sample_sheet(samples)),
        facts={
            **facts,
            "timing": dict(timing or {}),
            "last": {name: last_value(metrics, name) for name in metric_names(metrics)},
        },
        settings=settled,
        environment=environment,
        command=command,
    )


def metric_names(metrics: MetricRecords) -> list[str]:
    """The names that any record has."""
    return list(dict.fromkeys(name for record in metrics for name in record))


def metric_values(metrics: MetricRecords, name: str) -> list[float]:
    """The known values of `name`, in order."""
    return [record[name] for record in metrics if record.get(name) is not None]


def last_value(metrics: MetricRecords, name: str) -> Any:
    """The last known value of `name`, None where there is none."""
    return next(iter(metric_values(metrics, name)[-1:]), None)


def final_health(metrics: MetricRecords) -> dict[str, float]:
    """The last known value of each measure of the embedding."""
    return health_words.known_metrics({name: last_value(metrics, name) for name in health_words.HEALTH_METRICS})


def training_verdict(metrics: MetricRecords, batch_size: int, seconds: float | None) -> str:
    """What came out of it, in a few sentences."""
    sentences = []
    if losses := metric_values(metrics, "loss"):
        took = f" in {duration(seconds)}" if seconds is not None else ""
        epochs = f"{last_value(metrics, 'epoch') or 0:.4g} epochs ({last_value(metrics, 'step') or 0:,} steps)"
        most, end = max(losses), statistics.fmean(losses[-max(1, len(losses) // 10) :])  # the first: a queue of noise
        sentences.append(f"Trained for {epochs}{took}; the loss was {most:.3g} at most and {end:.3g} at the end.")
    if scores := metric_values(metrics, "monitor"):
        sentences.append(f"kNN top-1 on the monitor's images went from {percent(scores[0])} to {percent(scores[-1])}.")
    found = final_health(metrics)
    watched: dict[str, float] = {name: found[name] for name in ("spread", "rank") if name in found}
    sick = [name for name, value in watched.items() if health_words.severity(name, value, batch_size) == 2]
    if watched:
        state = "looks collapsed" if len(sick) == len(watched) else "is thin" if sick else "is healthy"
        sentences.append(f"The embedding {state} at the end: {health_words.health_summary(watched, batch_size)}.")
    return " ".join(sentences) or "Nothing was measured: the run ended before its first record."


def final_values_table(metrics: MetricRecords, batch_size: int) -> Table:
    """The last value of the loss, the monitor and each measure, with its word and its meaning."""
    rows: list[tuple[str, str, str, str]] = []
    if losses := metric_values(metrics, "loss"):
        rows.append(("loss", f"{losses[-1]:.4f}", "", f"lowest {min(losses):.4f}"))
    if scores := metric_values(metrics, "monitor"):
        rows.append(("kNN top-1", percent(scores[-1]), "", f"best {percent(max(scores))}"))
    for name, value in final_health(metrics).items():
        one, told = health_words.HEALTH_METRICS[name], health_words.format_metric(name, value)
        rows.append((one.title, told, health_words.health_word(name, value, batch_size), one.meaning))
    return Table("At the end", ("Measure", "Value", "Reads as", "Meaning"), tuple(rows))


def throughput_table(timing: Mapping[str, float | None]) -> Table:
    """How fast the training was."""
    written = {
        "images_per_second": ("images a second (median)", "{:,.0f}".format),
        "seconds": ("time in all", duration),
        "waited": ("share of the steps' time spent waiting for data", percent),
    }
    known = ((text, timing.get(name)) for name, text in written.items())
    rows = ((title, as_text(value)) for (title, as_text), value in known if value is not None)
    return Table("Speed", ("What", "Value"), tuple(rows))


def training_curves(metrics: MetricRecords) -> Iterator[Picture]:
    """A picture for each curve that there is."""
    shown = {
        "loss": ("Loss", "The training loss. It may rise at first, while the queue fills with better keys.", None),
        "monitor": ("kNN of the monitor", "kNN top-1 on the labelled images of --monitor, in percent.", None),
        **{
            name: (
                one.title.capitalize(),
                f"{one.meaning[0].upper()}{one.meaning[1:]}. Dotted: good from here.",
                one.good,
            )
            for name, one in health_words.HEALTH_METRICS.items()
        },
        "lr": ("Learning rate", "The learning rate of each step.", None),
        "grad_norm": ("Gradient norm", "The length of the gradient over all trained parameters.", None),
    }
    for name, (title, caption, good) in shown.items():
        records = [record for record in metrics if record.get(name) is not None]
        if records:
            scale = 100 if name == "monitor" else 1
            series = plots.Series(title, [r["epoch"] for r in records], [scale * r[name] for r in records])
            yield Picture(title, caption, plots.curves_svg([series], "epoch", markers=name == "monitor", good=good))


def sample_sheet(samples: "NDArray[numpy.uint8] | None") -> Iterator[Picture]:
    """The sheet of sample views, if there are any."""
    if samples is not None and len(samples):
        caption = "Each row is an image as it is stored, then its augmented views as the network sees them."
        yield Picture("Sample views", caption, png=plots.sheet_png(samples))
