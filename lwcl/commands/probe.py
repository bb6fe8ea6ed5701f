"""`lwcl probe`: linear evaluation of encoders, with untrained encoders as baselines."""

from collections.abc import Sequence

import torch

from lwcl.config.eval_options import ProbeOptions
from lwcl.config.probe_protocols import protocol_named
from lwcl.data.label_fractions import open_probe_pair, sample_label_fraction
from lwcl.errors import UsageError
from lwcl.evaluation.eval_data import pair_facts, with_own_data
from lwcl.evaluation.evaluator import encoder_result
from lwcl.evaluation.linear_probe import ProbeResult, ProbeSetup, probe_encoder, probe_images
from lwcl.evaluation.publish import publish
from lwcl.evaluation.subjects import Subject, baselines, for_clips, load_subject, with_untrained
from lwcl.formatting import plural
from lwcl.metrics.bootstrap import bootstrap_interval, mean_top1
from lwcl.reporting.console import Screen
from lwcl.reporting.probe import FractionResult, ProbeRow, probe_report, probe_table, probe_time
from lwcl.reporting.report import Report
from lwcl.runs.folder import report_folder
from lwcl.settings import Origin, OriginKind, recorded_settings
from lwcl.system import distributed
from lwcl.system.device import resolve_device
from lwcl.system.limits import own_cpus
from lwcl.system.process_group import WAIT_SECONDS, process_group


def run_probe(encoders: list[str], options: ProbeOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Probes the encoders, prints a table or JSON, writes a report; returns the exit code.

    Several processes compute a share of the features each, and train together on views of images.
    """
    with process_group(resolve_device(options.device), WAIT_SECONDS):
        return probe_here(encoders, options, as_json=as_json, quiet=quiet)


def probe_here(encoders: list[str], options: ProbeOptions, *, as_json: bool, quiet: bool) -> int:
    """Probes the encoders in this process, with the others of its group if there are any."""
    screen, protocol = Screen(quiet=quiet), protocol_named(options.protocol)
    fractions = parse_fractions(options.fractions)
    if fractions and protocol.share < 1:
        raise UsageError(
            f"--fractions cannot be combined with --protocol {options.protocol}, which has a fraction of its own.",
            remedy="Leave one of them out.",
        )
    torch.set_num_threads(options.threads or own_cpus())
    options, subjects = load_probe_subjects(encoders, options)
    options = with_own_data(options, encoders, screen)
    bank, queries, notes, _ = open_probe_pair(
        options.data,
        options.val,
        seed=options.seed,
        **options.reading,
        known_classes=options.known_classes,
    )
    classes = plural(len(bank.classes), "class", "classes")
    screen.say(f"Training images: {len(bank):,} of {classes}; test images: {len(queries):,}")
    setup = ProbeSetup(options, bank, queries, screen)
    setup.evaluator.notes.extend(notes)
    shares = sorted({protocol.share, *fractions})
    if distributed.rank():
        for subject in subjects:
            help_probing(setup, subject, shares)
        return 0
    results = [probe_at_fractions(setup, subject, shares) for subject in subjects]
    final = [result[protocol.share] for result in results]
    rows = [
        probe_row(setup, subject, result[protocol.share], baseline, {share: result[share] for share in fractions})
        for subject, result, baseline in zip(subjects, results, baselines(subjects, final), strict=True)
    ]
    report = build_probe_report(setup, rows, sorted({subject.loaded.input_spec.size for subject in subjects}))
    screen.say(probe_time(rows))
    publish(
        report,
        screen,
        report_folder(options.out, encoders, "probe", report.facts),
        asked=bool(options.out),
        tables=[probe_table(rows, options.protocol)],
        lines=report.verdict.split("\n"),
        as_json=as_json,
        broken=setup.evaluator.broken,
    )
    return 0


def load_probe_subjects(encoders: Sequence[str], options: ProbeOptions) -> tuple[ProbeOptions, list[Subject]]:
    """The encoders named, the teacher, and their baselines; options with their clip. Raises as `load_subject`."""
    size, seed = options.image_size, options.seed
    subjects = [load_subject(name, arch=options.arch, image_size=size, seed=seed) for name in encoders]
    if options.teacher:
        subjects.append(load_subject(options.teacher, image_size=size, seed=seed, is_teacher=True))
    options, subjects = for_clips(options, subjects)
    return options, list(with_untrained(subjects, seed)) if options.random_init else subjects


def parse_fractions(fractions: str) -> tuple[float, ...]:
    """`--fractions` as shares of 1, rising. Raises `UsageError`."""
    try:
        shares = sorted({float(text) / 100 for text in fractions.replace("%", "").split(",") if text.strip()})
    except ValueError:
        shares = [0.0]
    if any(not 0 < share <= 1 for share in shares):
        raise UsageError(
            f"--fractions: got {fractions!r}.", remedy="Give percentages above 0, at most 100, such as 1,5,10,100."
        )
    return tuple(shares)


def probe_at_fractions(setup: ProbeSetup, subject: Subject, fractions: Sequence[float]) -> dict[float, ProbeResult]:
    """The result of an encoder with each fraction of the labels."""
    loaded, seed = subject.loaded, setup.options.seed
    features = setup.features(loaded)
    return {
        share: probe_encoder(setup, loaded, features, sample_label_fraction(setup.bank, share, seed))
        for share in fractions
    }


def help_probing(setup: ProbeSetup, subject: Subject, fractions: Sequence[float]) -> None:
    """This process's part of `probe_at_fractions`, whose results process 0 has."""
    loaded, seed = subject.loaded, setup.options.seed
    features = setup.features(loaded)
    for share in () if setup.on_features else fractions:
        train = sample_label_fraction(setup.bank, share, seed)
        probe_images(setup, setup.plan(len(train)), loaded, features, train)


def probe_row(
    setup: ProbeSetup,
    subject: Subject,
    result: ProbeResult,
    baseline: ProbeResult | None,
    fractions: dict[float, ProbeResult],
) -> ProbeRow:
    """A row of the table."""
    seed = setup.options.seed
    curve = [
        FractionResult(share, at.images, mean_top1(at.accuracy), bootstrap_interval(at.accuracy.top1, seed))
        for share, at in fractions.items()
    ]
    return ProbeRow(
        encoder_result(subject, result.accuracy, baseline.accuracy if baseline else None, seed),
        result.curve,
        result.selected,
        result.seconds,
        result.images,
        subject.is_teacher,
        tuple(curve),
    )


def with_source(origin: Origin, source: str) -> Origin:
    """The origin of a setting, a protocol's with the source of its number."""
    return origin._replace(detail=f"{origin.detail}: {source}") if origin.kind is OriginKind.PROTOCOL else origin


def build_probe_report(setup: ProbeSetup, rows: Sequence[ProbeRow], pixels: list[int]) -> Report:
    """The report of the probes, with the resolved settings of the protocol."""
    plan, bank = setup.plan(rows[0].images), setup.bank
    sources = {name: entry.source for name, entry in plan.protocol.settings.items()}
    settings = recorded_settings(setup.options) | {
        name: value._replace(origin=with_source(value.origin, sources.get(name, "")))
        for name, value in plan.values.items()
        if plan.protocol.way == "images" or (name in ("batch_size", "epochs") and plan.protocol.way == "fast")
    }
    facts = {
        "training images": rows[0].images,
        "classes": len(bank.classes),
        "broken images": len(setup.evaluator.broken),
        **pair_facts(bank, setup.queries, setup.options.data, setup.options.val),
        "pixels": pixels,
        "notes": setup.evaluator.notes,
    }
    return probe_report(rows, setup.options.protocol, images=len(setup.queries), settings=settings, facts=facts)
