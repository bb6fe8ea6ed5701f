"""`lwcl knn`: what encoders are worth on labelled images, beside untrained ones; also the monitor of a training run."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwcl import engine
from lwcl.checkpoints.load import load_encoder
from lwcl.config.eval_options import KnnOptions
from lwcl.config.train_options import DataOptions
from lwcl.data.cache.policy import available_memory
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.eval_loader import center_crop_batches, eval_batches
from lwcl.data.labelled import open_labelled_pair
from lwcl.errors import TrainingDivergedError
from lwcl.formatting import escape
from lwcl.metrics import knn as neighbours
from lwcl.metrics.health import all_finite
from lwcl.metrics.knn import KnnScore, Vote
from lwcl.models.check_forward import check_forward
from lwcl.models.loaded import InputSpec, LoadedEncoder, random_encoder
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.knn import EncoderResult, knn_report, knn_table
from lwcl.runs.folder import RunFolder
from lwcl.settings import recorded_value
from lwcl.system.compute import Compute
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import choose_compute, current_command
from lwcl.system.environment import describe_environment

VIEW_CACHE_SHARE = 0.25  # of what is available, for keeping decoded images for the next encoder


class Evaluator:
    """Labelled images to find neighbours in (the bank) and to classify (the queries), decoded once for every size."""

    def __init__(self, bank: ImageSet, queries: ImageSet, *, batch_size: int, workers: int, screen: Screen) -> None:
        self.bank, self.queries = bank, queries
        self.batch_size, self.workers, self.screen = batch_size, workers, screen
        self.broken: set[BrokenImage] = set()
        self._kept: dict[tuple[InputSpec, int], list[Tensor]] = {}

    def features(self, loaded: LoadedEncoder, compute: Compute) -> tuple[Tensor, Tensor]:
        """The backbone's features of the bank and of the queries. Raises `TrainingDivergedError` if they are not
        finite."""
        rows = []
        encoder = compute.place(loaded.encoder)
        for number, images in enumerate((self.bank, self.queries)):
            with self.screen.counting(f"{loaded.name}: features", len(images)) as counting:
                pixels = self._pixels(number, images, loaded.input_spec, counting.advance)
                batches = eval_batches(pixels, images.labels, loaded.input_spec, compute)
                found = engine.embed(encoder, batches, compute, len(images))
            if not all_finite(found):
                raise TrainingDivergedError(
                    f"{loaded.name}: its features are not finite.",
                    "Its weights are damaged or its training diverged.",
                    "Train it again with a lower --lr.",
                )
            rows.append(found)
        return rows[0], rows[1]

    def _pixels(self, number: int, images: ImageSet, takes: InputSpec, advance: Any) -> Any:
        """The judging views, kept for the next encoder if memory allows."""
        key = (takes, number)
        kept = self._kept.get(key, [])
        fresh = not kept
        fits = 3 * takes.size**2 * len(images) < VIEW_CACHE_SHARE * available_memory()
        source = kept or center_crop_batches(
            images, takes, batch_size=self.batch_size, workers=self.workers, broken=self.broken.add
        )
        for pixels in source:
            if fresh and fits:
                self._kept.setdefault(key, []).append(pixels)
            advance(len(pixels))
            yield pixels

    def score(
        self, loaded: LoadedEncoder, compute: Compute, vote: Vote | None = neighbours.KNN_PRESETS["weighted"]
    ) -> KnnScore:
        """Which queries are right by the vote of their neighbours (None: best-NN)."""
        bank, queries = self.features(loaded, compute)
        told = queries, self.queries.labels, bank, self.bank.labels
        return neighbours.best_knn(*told) if vote is None else neighbours.knn_score(*told, vote)


def encoder_result(loaded: LoadedEncoder, found: KnnScore, untrained: KnnScore | None, seed: int) -> EncoderResult:
    """A row of the table: shares of right answers with intervals, and the paired gain over the untrained encoder."""
    gain = neighbours.paired_gain(found.top1, untrained.top1, seed) if untrained else None
    return EncoderResult(
        name=loaded.name,
        arch=loaded.encoder.arch,
        top1=float(found.top1.float().mean()),
        top1_interval=neighbours.bootstrap_interval(found.top1, seed),
        top5=float(found.top5.float().mean()),
        top5_interval=neighbours.bootstrap_interval(found.top5, seed),
        k=found.k,
        untrained=loaded.metadata.get("origin") == "untrained",
        gain=(gain[0], (gain[1], gain[2])) if gain else None,
    )


def untrained_like(loaded: LoadedEncoder, seed: int) -> LoadedEncoder:
    """An untrained encoder of the same architecture for the same images."""
    return random_encoder(loaded.encoder.arch, loaded.input_spec, seed, loaded.encoder.arguments)


def knn_rows(
    judge: Evaluator, encoders: list[LoadedEncoder], compute_of: Any, vote: Vote | None, *, beside: bool, seed: int
) -> list[EncoderResult]:
    """All encoders' rows, each followed by the untrained one of its architecture and images, once."""
    rows: list[EncoderResult] = []
    known: dict[Any, KnnScore] = {}
    for loaded in encoders:
        key = (loaded.encoder.arch, loaded.input_spec, str(loaded.encoder.arguments))
        trained = loaded.metadata.get("origin") != "untrained"
        found = judge.score(loaded, compute_of(loaded.encoder), vote)
        fresh = None
        if beside and trained and key not in known:
            fresh = untrained_like(loaded, seed)
            known[key] = judge.score(fresh, compute_of(fresh.encoder), vote)
        rows.append(encoder_result(loaded, found, known.get(key) if trained else None, seed))
        if fresh:
            rows.append(encoder_result(fresh, known[key], None, seed))
    return rows


def open_evaluator(options: DataOptions, batch_size: int, val: Sequence[str], seed: int, screen: Screen) -> Evaluator:
    """The judge of the images that the options name."""
    bank, queries = open_labelled_pair(options.data, val, seed=seed, download=options.download)
    screen.say(
        f"{len(bank):,} labelled images of {len(bank.classes)} classes to find neighbours in, "
        f"{len(queries):,} to classify."
    )
    workers = usable_cpus() if options.workers is None else options.workers
    return Evaluator(bank, queries, batch_size=batch_size, workers=workers if len(bank) > 2000 else 0, screen=screen)


def run_knn(encoders: list[str], options: KnnOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Judges the encoders, prints a table or JSON, writes a report; gives the exit code."""
    screen = Screen(quiet=quiet)
    loaded = [
        load_encoder(name, arch=options.arch, image_size=options.image_size, seed=options.seed) for name in encoders
    ]
    torch.set_num_threads(options.threads or usable_cpus())
    for one in loaded:
        check_forward(one.encoder, one.input_spec.size)
    judge = open_evaluator(options, options.batch_size, options.val, options.seed, screen)
    vote = neighbours.resolve_vote(options.preset, options.k, options.temperature, len(judge.bank))

    def compute_of(encoder: Any) -> Compute:
        return choose_compute(encoder, options.device, options.precision)

    rows = knn_rows(judge, loaded, compute_of, vote, beside=options.random_init, seed=options.seed)
    report = knn_report(
        rows,
        title="kNN of " + ", ".join(one.name for one in loaded),
        images=len(judge.queries),
        settled={field.name: recorded_value(getattr(options, field.name)) for field in dataclasses.fields(options)},
        facts={
            "bank": len(judge.bank),
            "classes": len(judge.bank.classes),
            "broken images": len(judge.broken),
            "data": judge.bank.fingerprint,
        },
        environment=describe_environment(),
        command=current_command(),
    )
    if judge.broken:
        screen.warn(f"{len(judge.broken)} broken images were replaced by their neighbours in the list.")
    if as_json:
        print_json(report.document())
    else:
        shown = knn_table(rows)
        print_table(shown.title, shown.columns, shown.rows)
        write_line(escape(report.verdict), sys.stdout)
    place = knn_report_folder(options.out, encoders)
    if place:
        report.write(place)
        screen.say(f"Report: {place / 'report.html'}")
    return 0


def knn_report_folder(out: str | None, encoders: list[str]) -> Path | None:
    """Where the report goes: `--out`, else `knn/` in the first run folder that is judged, else nowhere."""
    if out:
        return Path(out)
    runs = [Path(name) for name in encoders if (Path(name) / "config.yaml").exists()]
    return RunFolder(runs[0]).path / "knn" if runs else None
