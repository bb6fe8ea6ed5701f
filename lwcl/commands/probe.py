"""`lwcl probe`: what encoders are worth to a linear classifier of their features, beside untrained ones."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lwcl.checkpoints.encoder_file import Loaded, load_encoder
from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_protocols import protocol_named
from lwcl.data.label_fractions import probe_pair, share_of
from lwcl.errors import UsageError
from lwcl.evaluation.judge import judged, untrained_like
from lwcl.evaluation.linear_probe import Bench, Found, probed
from lwcl.formatting import harmless
from lwcl.metrics.knn import interval
from lwcl.models.check_forward import must_take
from lwcl.models.probe import must_be_finite
from lwcl.reporting.console import Screen, print_json, print_table, put
from lwcl.reporting.probe import AtShare, Probed, probe_report, probe_scores, spent
from lwcl.reporting.report import Report
from lwcl.settings import Origin, OriginKind, recorded
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import command_line
from lwcl.system.environment import environment


class Subject(NamedTuple):
    """An encoder that is probed."""

    loaded: Loaded
    teacher: bool = False

    @property
    def kind(self) -> str:
        """What an untrained encoder to compare with must have in common with it."""
        return f"{self.loaded.encoder.arch} {self.loaded.images} {self.loaded.encoder.arguments}"

    @property
    def untrained(self) -> bool:
        """Whether it is a random initialisation."""
        return self.loaded.facts.get("origin") == "untrained"


def probe(encoders: list[str], options: ProbeOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Probes the encoders, prints a table or JSON, writes a report; gives the exit code."""
    screen, protocol = Screen(quiet=quiet), protocol_named(options.protocol)
    shares = shares_of(options.fractions)
    if shares and protocol.share < 1:
        raise UsageError(
            f"--fractions does not go with the protocol {options.protocol}, which has a share of its own.",
            remedy="Leave one of them away.",
        )
    torch.set_num_threads(options.threads or usable_cpus())
    subjects = list(subjects_of(encoders, options))
    bank, queries = probe_pair(options.data, options.val, seed=options.seed, download=options.download)
    screen.say(f"{len(bank):,} images of {len(bank.classes)} classes to train on, {len(queries):,} to judge by.")
    bench = Bench(options, bank, queries, screen)
    rows = table(bench, subjects, protocol.share, shares)
    report = reported(bench, rows)
    screen.say(spent(rows))
    say(report, rows, bench, as_json=as_json)
    place = place_of(options.out, encoders)
    if place:
        report.write(place)
        screen.say(f"Report: {place / 'report.html'}")
    return 0


def subjects_of(encoders: Sequence[str], options: ProbeOptions) -> Iterator[Subject]:
    """The encoders named, and the teacher. Raises `UsageError` or `SickError` where one cannot be used."""
    named = [(name, options.arch, False) for name in encoders]
    named += [(options.teacher, None, True)] if options.teacher else []
    for name, arch, teacher in named:
        loaded = load_encoder(name, arch=arch, image_size=options.image_size, seed=options.seed)
        must_be_finite(loaded.name, loaded.encoder)
        must_take(loaded.encoder, loaded.images.size)
        yield Subject(loaded, teacher)


def shares_of(fractions: str) -> tuple[float, ...]:
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


def table(bench: Bench, subjects: Sequence[Subject], share: float, shares: Sequence[float]) -> list[Probed]:
    """All encoders' rows, each followed by the untrained one of its architecture and images, once."""
    rows: list[Probed] = []
    untrained: dict[str, Found] = {}
    for subject in subjects:
        fresh = None
        mine, curve = at_shares(bench, subject.loaded, share, shares)
        if bench.options.random_init and not subject.untrained and subject.kind not in untrained:
            fresh = untrained_like(subject.loaded, bench.options.seed)
            theirs, their_curve = at_shares(bench, fresh, share, shares)
            untrained[subject.kind] = theirs
        rows.append(row_of(bench, subject, mine, None if subject.untrained else untrained.get(subject.kind), curve))
        if fresh:
            rows.append(row_of(bench, Subject(fresh), theirs, None, their_curve))
    return rows


def at_shares(bench: Bench, loaded: Loaded, share: float, shares: Sequence[float]) -> tuple[Found, tuple[AtShare, ...]]:
    """How an encoder did with the protocol's share of the labels, and with each of `shares`."""
    features, seed = bench.features(loaded), bench.options.seed
    found = {part: probed(bench, loaded, features, share_of(bench.bank, part, seed)) for part in {share, *shares}}
    curve = []
    for part in shares:
        right = found[part].score.top1
        curve.append(AtShare(part, found[part].images, float(right.float().mean()), interval(right, seed)))
    return found[share], tuple(curve)


def row_of(
    bench: Bench, subject: Subject, found: Found, untrained: Found | None, shares: tuple[AtShare, ...]
) -> Probed:
    """A row of the table."""
    score = judged(subject.loaded, found.score, untrained.score if untrained else None, bench.options.seed)
    return Probed(score, found.curve, found.chosen, found.seconds, found.images, subject.teacher, shares)


def sourced(origin: Origin, source: str) -> Origin:
    """The origin of a setting, a protocol's with the source of its number."""
    return origin._replace(detail=f"{origin.detail}: {source}") if origin.kind is OriginKind.PROTOCOL else origin


def reported(bench: Bench, rows: Sequence[Probed]) -> Report:
    """The report of what was found, with the protocol as it was settled."""
    options, plan = bench.options, bench.plan(rows[0].images)
    cited = {name: entry.source for name, entry in plan.protocol.settings.items()}
    settled = {name: recorded(getattr(options, name)) for name in (f.name for f in dataclasses.fields(options))}
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
        environment=environment(),
        command=command_line(),
    )


def say(report: Report, rows: Sequence[Probed], bench: Bench, *, as_json: bool) -> None:
    """Prints what was found on stdout."""
    if bench.judge.broken:
        bench.screen.warn(f"{len(bench.judge.broken)} broken images were replaced by their neighbours in the list.")
    if as_json:
        print_json(report.document())
        return
    shown = probe_scores(rows, bench.options.protocol)
    print_table(shown.title, shown.columns, shown.rows)
    put(harmless(report.verdict), sys.stdout)


def place_of(out: str | None, encoders: Sequence[str]) -> Path | None:
    """Where the report goes: `--out`, else `probe/` in the first run folder that is probed, else nowhere."""
    runs = [Path(name) for name in encoders if (Path(name) / "config.yaml").exists()]
    return Path(out) if out else next((run / "probe" for run in runs), None)
