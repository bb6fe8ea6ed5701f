"""`lwcl knn`: kNN accuracy of encoders on labelled images, with untrained encoders as baselines."""

import torch

from lwcl.config.eval_options import KnnOptions
from lwcl.config.knn_presets import resolve_vote
from lwcl.evaluation.eval_data import pair_facts, with_own_data
from lwcl.evaluation.evaluator import encoder_result, open_evaluator
from lwcl.evaluation.publish import publish
from lwcl.evaluation.subjects import baselines, for_clips, load_subject, with_untrained
from lwcl.reporting.console import Screen
from lwcl.reporting.knn import knn_report, knn_table
from lwcl.runs.folder import report_folder
from lwcl.settings import recorded_settings
from lwcl.system import distributed
from lwcl.system.device import choose_compute, resolve_device
from lwcl.system.limits import own_cpus
from lwcl.system.process_group import WAIT_SECONDS, process_group


def run_knn(encoders: list[str], options: KnnOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Evaluates the encoders, prints a table or JSON, writes a report; returns the exit code.

    Several processes compute a share of the features each.
    """
    with process_group(resolve_device(options.device), WAIT_SECONDS):
        return knn_here(encoders, options, as_json=as_json, quiet=quiet)


def knn_here(encoders: list[str], options: KnnOptions, *, as_json: bool, quiet: bool) -> int:
    """Evaluates the encoders in this process, with the others of its group if there are any."""
    screen = Screen(quiet=quiet)
    options = with_own_data(options, encoders, screen)
    torch.set_num_threads(options.threads or own_cpus())
    subjects = [
        load_subject(name, arch=options.arch, image_size=options.image_size, seed=options.seed) for name in encoders
    ]
    options, subjects = for_clips(options, subjects)
    subjects = list(with_untrained(subjects, options.seed)) if options.random_init else subjects
    evaluator = open_evaluator(
        options, options.batch_size, options.val, options.seed, screen, known_classes=options.known_classes
    )
    bank, vote = evaluator.bank, resolve_vote(options.preset, options.k, options.temperature, len(evaluator.bank))
    if distributed.rank():
        for one in subjects:
            evaluator.features(one.loaded, choose_compute(one.loaded.encoder, options.device, options.precision))
        return 0
    scores = [
        evaluator.score(one.loaded, choose_compute(one.loaded.encoder, options.device, options.precision), vote)
        for one in subjects
    ]
    rows = [
        encoder_result(subject, score.accuracy, baseline.accuracy if baseline else None, options.seed, score.k)
        for subject, score, baseline in zip(subjects, scores, baselines(subjects, scores), strict=True)
    ]
    facts = {
        "bank": len(bank),
        "classes": len(bank.classes),
        "broken images": len(evaluator.broken),
        **pair_facts(bank, evaluator.queries, options.data, options.val),
        "pixels": sorted({one.loaded.input_spec.size for one in subjects}),
        "notes": evaluator.notes,
    }
    report = knn_report(rows, images=len(evaluator.queries), settings=recorded_settings(options), facts=facts)
    publish(
        report,
        screen,
        report_folder(options.out, encoders, "knn", report.facts),
        asked=bool(options.out),
        tables=[knn_table(rows)],
        lines=report.verdict.split("\n"),
        as_json=as_json,
        broken=evaluator.broken,
    )
    return 0
