"""Equal time for all: `lwcl` and its peers train equally long; one judge scores what each leaves; rows are kept.

The clock of a run starts with its command and stops when the weights are there, so importing, decoding and measuring a
machine count. Not counted: a teacher's outputs, which all methods with the same views share, and judging.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import lwcl
from lwcl.checkpoints.encoder_file import read_description
from lwcl.checkpoints.load import load_encoder
from lwcl.config.eval_options import ProbeOptions
from lwcl.data.label_fractions import open_probe_pair
from lwcl.evaluation.linear_probe import ProbeSetup, probe_encoder
from lwcl.evaluation.subjects import untrained_like
from lwcl.metrics.bootstrap import bootstrap_interval, mean_top1, paired_gain
from lwcl.metrics.clusters import cluster_alignment
from lwcl.metrics.knn import knn_score
from lwcl.metrics.spectrum import spectrum
from lwcl.reporting.console import Screen
from lwcl.system.cpu import GOMP_SPINS
from lwcl.system.environment import cpu_name
from lwcl.system.limits import usable_cpus
from peer_ways.budget import Task
from peer_ways.pictures import pictures
from peer_ways.runner import BENCHMARKS

Row = dict[str, Any]
TRIAL_STEPS = 5, 25  # of the two short runs whose difference is the cost of a step
SPARE = 0.98  # of the time that the trials predict, so that a run rarely ends late
K, TEMPERATURE = 20, 0.07  # of the neighbours' votes, as `lwcl knn`


class ImagesAndLabels(NamedTuple):
    """A set: what is trained on, without labels, and what is judged on."""

    name: str
    data: str  # labelled training images, as `lwcl knn --data`
    val: tuple[str, ...]  # labelled test images; empty: those of `data`
    folder: Path  # the training images, flat
    images: int


@contextmanager
def image_set(name: str, data: str, val: tuple[str, ...], count: int) -> Iterator[ImagesAndLabels]:
    """The set, its training images copied into a folder without classes, so that nobody sees a label."""
    with tempfile.TemporaryDirectory(prefix="lwcl-") as scratch:
        folder = Path(scratch, "images")
        folder.mkdir()
        pictures(data if Path(data).exists() else None, folder, count)
        files = list(folder.iterdir())
        for file in files:
            os.utime(file, (0, 0))  # so that caches know them again in the next run of the command
        yield ImagesAndLabels(name, data, val, folder, len(files))


class Judge:
    """kNN, linear probe and effective rank of encoders on one set, in float32; decodes the images once."""

    def __init__(self, images: ImagesAndLabels, size: int, **reading: Any) -> None:
        self.size = size
        bank, queries, *_ = open_probe_pair((images.data,), images.val, seed=0, **reading)
        self.bank, self.queries = bank, queries
        options = ProbeOptions(data=(images.data,), val=images.val, precision="fp32", threads=usable_cpus(), workers=0)
        self.setup = ProbeSetup(options, bank, queries, Screen(quiet=True))

    def scores(self, encoder: str, arch: str | None, *, untrained: bool = False) -> Row:
        """What an encoder is worth, or an untrained one of its kind; which queries kNN and the probe classify right."""
        torch.set_num_threads(usable_cpus())
        loaded = load_encoder(encoder, arch=None if encoder.startswith("random/") else arch, image_size=self.size)
        loaded = untrained_like(loaded, 0) if untrained else loaded
        found = self.setup.features(loaded)
        assert found is not None
        bank, queries = found
        knn = knn_score(queries, self.queries.labels, bank, self.bank.labels, k=K, temperature=TEMPERATURE)
        probe = probe_encoder(self.setup, loaded, found, torch.arange(len(self.bank)))
        aligned = cluster_alignment(bank, self.bank.labels, queries, self.queries.labels, seed=0)
        return {
            **{"top1": mean_top1(knn.accuracy), "top1_interval": bootstrap_interval(knn.accuracy.top1)},
            **{"probe": mean_top1(probe.accuracy), "probe_interval": bootstrap_interval(probe.accuracy.top1)},
            **{"clusters": aligned, "rank": spectrum(queries)[0].centred_rank, "queries": len(queries)},
            **{"right": hexadecimal(knn.accuracy.top1), "probe_right": hexadecimal(probe.accuracy.top1)},
        }


def hexadecimal(right: Tensor) -> str:
    """Which queries (N,) bool are classified correctly, in a number."""
    return f"{int(''.join('01'[int(one)] for one in right.tolist()), 2):x}"


def difference(row: Row, other: Row, of: str = "right") -> tuple[float, float, float]:
    """Top-1 (`of` "probe_right": the probe's) of one row minus that of another, points, with its paired interval."""
    first, second = (
        torch.tensor([digit == "1" for digit in f"{int(one[of], 16):0{one['queries']}b}"]) for one in (row, other)
    )
    gain, low, high = paired_gain(first, second)
    return 100 * gain, 100 * low, 100 * high


class Rows:
    """The rows of a file, appended one by one; a row that is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def find(self, **wanted: Any) -> Row | None:
        """The last row with these values."""
        return next((r for r in reversed(self.rows) if all(r.get(key) == value for key, value in wanted.items())), None)

    def add(self, row: Row) -> Row:
        """Appends a row, with date and machine."""
        row = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cpu": cpu_name(), "lwcl": lwcl.__version__, **row}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def encoder_files(given: list[Path]) -> Iterator[tuple[str, str]]:
    """lwcl's encoder files and their architectures; of a folder all that are in it."""
    for path in given:
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            yield str(file), read_description(file)["arch"]


def child(words: list[str], environment: Mapping[str, str] | None = None) -> tuple[int, str, float, float]:
    """Runs a command; gives its exit code, the end of what it said, its CPU seconds and its peak memory in MB."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        return process.returncode, log.read()[-3000:], used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def lwcl_run(command: str, flags: list[str], out: Path) -> Row:
    """A run of `lwcl` into a new folder: its seconds until the weights, its CPU seconds, steps and speed."""
    begun = time.time()
    words = [sys.executable, "-m", "lwcl", command, *flags, "--out", str(out), "--overwrite", "--quiet"]
    code, said, cpu, peak = child(words, {"GOMP_SPINCOUNT": GOMP_SPINS})
    if code:
        raise RuntimeError(f"{' '.join(words)}: {said}")
    report = json.loads((out / "report.json").read_text())
    facts, settings = report["facts"], dict(report["settings"])
    chosen = {
        name: settings[name]["value"] for name in ("recipe", "batch_size", "epochs", "lr", "precision", "threads")
    }
    return {
        **{"seconds": (out / "encoder.safetensors").stat().st_mtime - begun, "cpu_s": cpu, "steps": facts["steps"]},
        **{"images_per_second": facts["timing"]["images_per_second"], "peak_mb": peak, **chosen},
    }


def lwcl_for(command: str, flags: list[str], minutes: float, images: int, out: Path) -> Row:
    """A run of as many steps as two short trials say that the minutes allow.

    On one core they are minutes of CPU time: what a run gets that has the core to itself, and not less beside others.
    """
    clock = "cpu_s" if usable_cpus() == 1 else "seconds"
    trial = [*flags, "--epochs", "100", "--fast-dev-run"]
    lwcl_run(command, [*trial, "1"], out)  # fills caches: of a teacher's outputs, which is not counted, and of timings
    short, longer = (lwcl_run(command, [*trial, str(steps)], out) for steps in TRIAL_STEPS)
    step = max(1e-4, (longer[clock] - short[clock]) / (TRIAL_STEPS[1] - TRIAL_STEPS[0]))
    start = short[clock] - TRIAL_STEPS[0] * step
    steps = max(1, int(SPARE * (60 * minutes - start) / step))
    epochs = steps / (images // short["batch_size"])
    row = lwcl_run(command, [*flags, "--epochs", repr(epochs), "--save-every", "60m"], out)
    return row | {"images_per_second": steps * short["batch_size"] / max(step, row[clock] - start)}


def peer_for(python: str, module: str, task: Task) -> Iterator[tuple[Row, str]]:
    """A peer's training; for each mark what it cost, and the file of its weights. Raises `RuntimeError` if it fails.

    CPU seconds are known of the whole process, with those that made its batches: at its last mark.
    """
    paths = {"OMP_NUM_THREADS": str(task.threads), "PYTHONPATH": str(BENCHMARKS)}
    told = json.dumps(task._replace(started=time.time())._asdict())
    code, said, cpu, _ = child([python, "-W", "ignore", "-m", f"peer_ways.{module}", told], paths)
    if code:
        raise RuntimeError(f"{module}, {task.method}: {said}")
    for mark in task.marks:
        cost: Row = json.loads(Path(task.out, f"{mark:g}.json").read_text())
        cost["images_per_second"] = cost["steps"] * cost["batch"] / cost["seconds"]
        cost |= {"cpu_s": cpu} if mark == task.marks[-1] else {}
        yield cost, str(Path(task.out, f"{mark:g}.pth"))


def write_between(page: Path, name: str, lines: list[str]) -> None:
    """Writes lines between the markers of this name in a page."""
    begin, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
    text = page.read_text()
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    page.write_text(before + "\n" + "".join(f"{line}\n" for line in lines) + "\n" + after)


def percent(share: float, interval: tuple[float, float] | list[float]) -> str:
    """A share with its interval, as tables have it."""
    return f"{100 * share:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def points(gain: tuple[float, float, float]) -> str:
    """A difference with its interval, bold where the interval does not hold 0."""
    text = f"{gain[0]:+.1f} ({gain[1]:+.1f} to {gain[2]:+.1f})"
    return f"**{text}**" if gain[1] > 0 or gain[2] < 0 else text
