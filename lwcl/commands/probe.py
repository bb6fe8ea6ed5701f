"""`lwcl probe`: what encoders are worth to a linear classifier of their features, beside untrained ones."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lwcl.checkpoints.load import load_encoder
from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_protocols import protocol_named
from lwcl.data.label_fractions import open_probe_pair, sample_label_fraction
from lwcl.errors import UsageError
from lwcl.evaluation.judge import encoder_result, untrained_like
from lwcl.evaluation.linear_probe import ProbeResult, ProbeSetup, probe_encoder
from lwcl.formatting import escape
from lwcl.metrics.knn import bootstrap_interval
from lwcl.models.check_forward import check_forward
from lwcl.models.loaded import LoadedEncoder
from lwcl.models.probe import check_weights_finite
from lwcl.reporting.console import Screen, print_json, print_table, write_line
from lwcl.reporting.probe import FractionResult, ProbeRow, probe_report, probe_table, probe_time
from lwcl.reporting.report import Report
from lwcl.settings import Origin, OriginKind, recorded_value
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import current_command
from lwcl.system.environment import describe_environment


class ProbedEncoder(NamedTuple):
    """An encoder that is probed."""

    loaded: LoadedEncoder
    teacher: bool = False

    @property
    def kind(self) -> str:
        """What an untrained encoder to compare with must have in common with it."""
        return f"{self.loaded.encoder.arch} {self.loaded.input_spec} {self.loaded.encoder.arguments}"

    @property
    def untrained(self) -> bool:
        """Whether it is a random initialisation."""
        return self.loaded.metadata.get("origin") == "untrained"


def run_probe(encoders: list[str], options: ProbeOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Probes the encoders, prints a table or JSON, writes a report; gives the exit code."""
    screen, protocol = Screen(quiet=quiet), protocol_named(options.protocol)
    shares = parse_fractions(options.fractions)
    if shares and protocol.share < 1:
        raise UsageError(
            f"--fractions does not go with the protocol {options.protocol}, which has a share of its own.",
            remedy="Leave one of them away.",
        )
    torch.set_num_threads(options.threads or usable_cpus())
    subjects = list(load_probed_encoders(encoders, options))
    bank, queries = open_probe_pair(options.data, options.val, seed=options.seed, download=options.download)
    screen.say(f"{len(bank):,} images of {len(bank.classes)} classes to train on, {len(queries):,} to judge by.")
    bench = ProbeSetup(options, bank, queries, screen)
    rows = probe_rows(bench, subjects, protocol.share, shares)
    report = build_probe_report(bench, rows)
    screen.say(probe_time(rows))
    print_probe_report(report, rows, bench, as_json=as_json)
    place = probe_report_folder(options.out, encoders)
    if place:
        report.write(place)
        screen.say(f"Report: {place / 'report.html'}")
    return 0


def load_probed_encoders(encoders: Sequence[str], options: ProbeOptions) -> Iterator[ProbedEncoder]:
    """The encoders named, and the teacher. Raises `UsageError` or `TrainingDivergedError` where one cannot be used."""
    named = [(name, options.arch, False) for name in encoders]
    named += [(options.teacher, None, True)] if options.teacher else []
    for name, arch, teacher in named:
        loaded = load_encoder(name, arch=arch, image_size=options.image_size, seed=options.seed)
        check_weights_finite(loaded.name, loaded.encoder)
        check_forward(loaded.encoder, loaded.input_spec.size)
        yield ProbedEncoder(loaded, teacher)


def parse_fractions(fractions: str) -> tuple[float, ...]:
    """`--fractions` as shares of 1, rising. Raises `UsageError`."""
    try:
        shares = sorted({float(text) / 100 for text in fractions.replace("%", "").split(",") if text.strip()})
    except ValueError:
        shares = [0.0]
    if any(not 0 < share <= 1 for share in shares):
        raise UsageError(
            f"--fractions: got {fractions!r}.", remedy="Give percentages above 0, at most 100, as 1,5,10,100."
        )
    return tuple(shares)


def probe_rows(
    bench: ProbeSetup, subjects: Sequence[ProbedEncoder], share: float, shares: Sequence[float]
) -> list[ProbeRow]:
    """All encoders' rows, each followed by the untrained one of its architecture and images, once."""
    rows: list[ProbeRow] = []
    untrained: dict[str, ProbeResult] = {}
    for subject in subjects:
        fresh = None
        mine, curve = probe_at_fractions(bench, subject.loaded, share, shares)
        if bench.options.random_init and not subject.untrained and subject.kind not in untrained:
            fresh = untrained_like(subject.loaded, bench.options.seed)
            theirs, their_curve = probe_at_fractions(bench, fresh, share, shares)
            untrained[subject.kind] = theirs
        rows.append(probe_row(bench, subject, mine, None if subject.untrained else untrained.get(subject.kind), curve))
        if fresh:
            rows.append(probe_row(bench, ProbedEncoder(fresh), theirs, None, their_curve))
    return rows


def probe_at_fractions(
    bench: ProbeSetup, loaded: LoadedEncoder, share: float, shares: Sequence[float]
) -> tuple[ProbeResult, tuple[FractionResult, ...]]:
    """How an encoder did with the protocol's share of the labels, and with each of `shares`."""
    features, seed = bench.features(loaded), bench.options.seed
    found = {
        part: probe_encoder(bench, loaded, features, sample_label_fraction(bench.bank, part, seed))
        for part in {share, *shares}
    }
    curve = []
    for part in shares:
        right = found[part].score.top1
        curve.append(
            FractionResult(part, found[part].images, float(right.float().mean()), bootstrap_interval(right, seed))
        )
    return found[share], tuple(curve)


def probe_row(
    bench: ProbeSetup,
    subject: ProbedEncoder,
    found: ProbeResult,
    untrained: ProbeResult | None,
    shares: tuple[FractionResult, ...],
) -> ProbeRow:
    """A row of the table."""
    score = encoder_result(subject.loaded, found.score, untrained.score if untrained else None, bench.options.seed)
    return ProbeRow(score, found.curve, found.chosen, found.seconds, found.images, subject.teacher, shares)


def sourced(origin: Origin, source: str) -> Origin:
    """The origin of a setting, a protocol's with the source of its number."""
    return origin._replace(detail=f"{origin.detail}: {source}") if origin.kind is OriginKind.PROTOCOL else origin


def build_probe_report(bench: ProbeSetup, rows: Sequence[ProbeRow]) -> Report:
    """The report of what was found, with the protocol as it was settled."""
    options, plan = bench.options, bench.plan(rows[0].images)
    cited = {name: entry.source for name, entry in plan.protocol.settings.items()}
    settled = {name: recorded_value(getattr(options, name)) for name in (f.name for f in dataclasses.fields(options))}
    settled |= {
        name: one._replace(origin=sourced(one.origin, cited.get(name, "")))
        for name, one in plan.settled.items()
        if plan.protocol.way == "images" or (name in ("batch_size", "epochs") and plan.protocol.way == "fast")
    }
    facts: dict[str, Any] = {
        "training images": rows[0].images,
        "classes": len(bench.bank.classes),
        "broken images": len(bench.judge.broken),
        "data": bench.bank.fingerprint,
    }
    return probe_report(
        rows,
        options.protocol,
        images=len(bench.queries),
        settled=settled,
        facts=facts,
        environment=describe_environment(),
        command=current_command(),
    )


def print_probe_report(report: Report, rows: Sequence[ProbeRow], bench: ProbeSetup, *, as_json: bool) -> None:
    """Prints what was found on stdout."""
    if bench.judge.broken:
        bench.screen.warn(f"{len(bench.judge.broken)} broken images were replaced by their neighbours in the list.")
    if as_json:
        print_json(report.document())
        return
    shown = probe_table(rows, bench.options.protocol)
    print_table(shown.title, shown.columns, shown.rows)
    write_line(escape(report.verdict), sys.stdout)


def probe_report_folder(out: str | None, encoders: Sequence[str]) -> Path | None:
    """Where the report goes: `--out`, else `probe/` in the first run folder that is probed, else nowhere."""
    runs = [Path(name) for name in encoders if (Path(name) / "config.yaml").exists()]
    return Path(out) if out else next((run / "probe" for run in runs), None)
