"""The figures of the benchmarks, in the reports' style, on white: a page may be dark."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwcl.reporting import plots
from lwcl.reporting.pareto import BenchPoint, pareto_front

Row = dict[str, Any]
LOOKS = [*((colour, "") for colour in (*plots.PALETTE, "#F0E442", plots.GREY, "#000000")), ("#ffffff", "////")]


def bars(rows: list[Row]) -> Figure:
    """A stacked bar of the CPU time of a step for each way, an axis for each architecture."""
    architectures = list(dict.fromkeys(row["architecture"] for row in rows))
    matplotlib.rcParams.update(plots.MATPLOTLIB_RC)
    figure = Figure(figsize=(7.3, 1.1 + 1.75 * len(architectures)), layout="constrained")
    for axes, arch in zip(figure.subplots(len(architectures), squeeze=False)[:, 0], architectures, strict=True):
        ways = [row for row in rows if row["architecture"] == arch]
        longest = max(sum(row["parts_ms"].values()) for row in ways)
        for place, row in enumerate(ways):
            left = 0.0
            for (name, value), (colour, hatch) in zip(row["parts_ms"].items(), LOOKS, strict=True):
                label = name if place == 0 and arch == architectures[0] else None
                axes.barh(
                    place,
                    value,
                    0.7,
                    left,
                    color=colour,
                    hatch=hatch,
                    edgecolor=plots.GREY if hatch else "white",
                    lw=0.6,
                    label=label,
                )
                if value > 0.05 * longest and not hatch:
                    dark = colour in ("#0072B2", "#D55E00", "#009E73", "#000000")
                    ink = {"color": "white" if dark else "black"}
                    axes.text(left + value / 2, place, f"{value:.0f}", ha="center", va="center", fontsize=8, **ink)
                left += value
            axes.text(left + 0.008 * longest, place, f"{left:.0f} ms", va="center", fontsize=9, weight="bold")
        axes.set_yticks(range(len(ways)), [row["way"] for row in ways])
        axes.set(xlim=(0, 1.1 * longest), title=f"{arch}, {ways[0]['pixels']} px, batch {ways[0]['batch']}")
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    axes.set_xlabel("CPU milliseconds of a step and its two views, one thread")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def saved(figure: Figure, path: Path) -> None:
    """The figure as a file that looks the same on a light page and on a dark one."""
    text = plots.figure_svg(figure).replace("currentColor", "#1a1a1a")
    end = text.index(">") + 1
    path.write_text(f'{text[:end]}<rect width="100%" height="100%" fill="#ffffff"/>{text[end:]}')


def throughput(rows: list[Row]) -> Figure:
    """A panel for each net and size: a bar for each way, a line from least to most, a diamond with lwcl's allocator."""
    works = list(dict.fromkeys((row["architecture"], row["pixels"]) for row in rows))
    matplotlib.rcParams.update(plots.MATPLOTLIB_RC)
    height = -(-len(works) // 3)
    figure = Figure(figsize=(9.5, 0.5 + 1.6 * height), layout="constrained")
    panels = figure.subplots(height, 3, squeeze=False).flat
    for axes, (arch, pixels) in zip(panels, works, strict=False):
        own = [row for row in rows if (row["architecture"], row["pixels"]) == (arch, pixels)]
        names = list(dict.fromkeys(row["way"] for row in own))
        for row in own:
            place, rate = names.index(row["way"]), row["images_per_second"]
            if row["allocator"] == "kept" and not row["way"].startswith("lwcl"):
                axes.plot(rate, place, "D", color="black", markersize=4)
                continue
            axes.barh(place, rate, 0.7, color=plots.PALETTE[0] if row["way"].startswith("lwcl") else plots.GREY)
            axes.plot((row["low"], row["high"]), (place, place), color="black", lw=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{arch.split('_patch')[0].removesuffix('_100')}, {pixels} px", fontsize=9, loc="right")
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    for axes in list(figure.axes)[len(works) :]:
        axes.remove()
    figure.supxlabel("images / second", fontsize=9)
    return figure


def panels(rows: list[Row]) -> Figure:
    """Three panels side by side."""
    matplotlib.rcParams.update(plots.MATPLOTLIB_RC)
    figure = Figure(figsize=(7.3, 2.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_queues(left, [row for row in rows if row["part"] == "queue"])
    draw_banks(middle, [row for row in rows if row["part"] == "knn"])
    draw_stores(right, [row for row in rows if row["part"] == "store"])
    return figure


def line(axes: Axes, number: int, name: str, x: list[float], y: list[float]) -> None:
    """A curve with markers."""
    look: Row = {
        "color": plots.PALETTE[number],
        "linestyle": plots.LINE_STYLES[number],
        "marker": plots.MARKERS[number],
    }
    axes.plot(x, y, markersize=5, label=name, **look)


def draw_queues(axes: Axes, rows: list[Row]) -> None:
    """Images a second by the length of the queue."""
    for number, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == name]
        line(axes, number, name, [row["queue"] for row in own], [row["images_s"] for row in own])
    axes.set_xscale("log", base=2)
    lengths = sorted({row["queue"] for row in rows})[::2]
    axes.set_xticks(lengths, [f"{length // 1024}k" for length in lengths])
    axes.set(title="A step", xlabel="keys in the queue", ylabel="images / CPU second")
    axes.set_ylim(0)
    axes.legend(frameon=False)


def draw_banks(axes: Axes, rows: list[Row]) -> None:
    """Seconds by the size of the bank, and the memory beside each."""
    sizes = [row["bank"] / 1000 for row in rows]
    line(axes, 0, "", sizes, [row["seconds"] for row in rows])
    for size, row in zip(sizes, rows, strict=True):
        text = f"+{row['peak'] / 1e6:.0f} MB"
        axes.annotate(text, (size, row["seconds"]), (5, -11), textcoords="offset points", fontsize=8)
    axes.set(title="1,000 exact neighbours", xlabel="thousand rows of 1280", ylabel="CPU seconds")
    axes.set_xlim(0, 1.35 * max(sizes))
    axes.set_ylim(0)


def draw_stores(axes: Axes, rows: list[Row]) -> None:
    """Seconds by the number of images, decoded and found again."""
    counts = [row["images"] for row in rows]
    for number, (name, key) in enumerate({"first time": "first_s", "from the cache": "again_s"}.items()):
        line(axes, number, name, counts, [row[key] for row in rows])
    axes.set(xscale="log", yscale="log", title="Index and store", xlabel="JPEGs", ylabel="CPU seconds")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")  # powers would need TeX
    axes.legend(frameon=False)


def time_to_accuracy(rows: list[Row]) -> Figure:
    """A panel for each set and net: kNN top-1 with its interval by minutes, a curve for each way."""
    works = list(dict.fromkeys((row["set"], row["arch"], row["cpus"]) for row in rows))
    names = list(dict.fromkeys(row["way"] for row in rows if row["minutes"]))
    matplotlib.rcParams.update(plots.MATPLOTLIB_RC)
    height = -(-len(works) // 2)
    figure = Figure(figsize=(7.5, 0.7 + 2.7 * height), layout="constrained")
    panels = figure.subplots(height, 2, squeeze=False).flat
    for axes, work in zip(panels, works, strict=False):
        own = [row for row in rows if (row["set"], row["arch"], row["cpus"]) == work]
        for row in own:
            if not row["minutes"]:
                axes.axhline(100 * row["top1"], color=plots.GREY, lw=1, label="untrained")
        for number, name in enumerate(names):
            curve = sorted(
                (row["seconds"] / 60, row["top1"], *row["top1_interval"]) for row in own if row["way"] == name
            )
            if curve:
                minutes, top1, low, high = zip(*curve, strict=True)
                look: Row = {"color": LOOKS[number % 8][0], "marker": plots.MARKERS[number % len(plots.MARKERS)]}
                bars = [[100 * (t - e) for t, e in zip(top1, low, strict=True)]]
                bars += [[100 * (e - t) for t, e in zip(top1, high, strict=True)]]
                width = {"lw": 2.2} if name == "lwcl" else {"lw": 1.0}
                axes.errorbar(minutes, [100 * t for t in top1], bars, label=name, markersize=4, **look, **width)
        axes.set(title=f"{work[1].removesuffix('_100')}, {work[0].split('-')[0]}", xlabel=f"minutes on {work[2]} CPU")
        latest = max((row["seconds"] / 60 for row in own if row["minutes"]), default=1.0)
        axes.set(ylabel="kNN top-1, %", xlim=(0, 1.05 * latest))
    for axes in list(figure.axes)[len(works) :]:
        axes.remove()
    known = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def accuracy_and_latency(points: list[tuple[str, str, BenchPoint]]) -> Figure:
    """Networks (colours) in several forms (markers): accuracy by latency, size as area, dashed the Pareto front."""
    matplotlib.rcParams.update(plots.MATPLOTLIB_RC)
    figure = Figure(figsize=(7.5, 3.9), layout="constrained")
    axes = figure.subplots()
    nets, forms = (list(dict.fromkeys(each)) for each in zip(*((net, form) for net, form, _ in points), strict=True))
    front = pareto_front([point for *_, point in points])
    axes.plot([one.latency for one in front], [one.top1 for one in front], "--", color=plots.GREY, lw=1, zorder=1)
    largest = max(point.megabytes for *_, point in points)
    for net, form, point in points:
        colour, marker = plots.PALETTE[nets.index(net)], plots.MARKERS[forms.index(form)]
        axes.plot((point.latency, point.latency), point.interval, color=colour, lw=1, alpha=0.5, zorder=2)
        area = 25 + 250 * point.megabytes / largest
        axes.scatter(point.latency, point.top1, area, color=colour, marker=marker, alpha=0.8, lw=0, zorder=3)
    for number, net in enumerate(nets):
        axes.plot([], [], "s", color=plots.PALETTE[number], label=net)
    for number, form in enumerate(forms):
        axes.plot([], [], plots.MARKERS[number], color=plots.GREY, label=form)
    axes.set(xscale="log", xlabel="milliseconds an image, one thread", ylabel="kNN top-1, %")
    ticks = [0.5, 1, 2, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
