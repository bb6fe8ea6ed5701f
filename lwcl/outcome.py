"""What a finished run leaves: the encoder, its export to plain timm, a kNN score where there are labels, the report."""

import dataclasses
from collections.abc import Mapping, Sequence

from lwcl.data.draws import epoch_order
from lwcl.data.images import ImageSet
from lwcl.data.labelled import labelled_pair
from lwcl.environment import environment
from lwcl.judge import Judge, table
from lwcl.knn_report import Judged, scores, verdict
from lwcl.machine import command_line, compute_for
from lwcl.measures.knn import PRESETS
from lwcl.preview import sample_views
from lwcl.progress import Screen, print_json, print_table
from lwcl.runfolder import RunFolder
from lwcl.training import Training
from lwcl.training_report import training_report
from lwcl.weights import export_timm, save_encoder, snippet
from lwcl.wording import harmless

Timing = Mapping[str, float | None]
BANK, QUERIES = 20_000, 5_000  # at most, for the score at the end of a training; `lwcl knn` takes all


def finish(training: Training, folder: RunFolder, screen: Screen, timing: Timing, *, as_json: bool) -> int:
    """Writes encoder, export and report, judges where labels allow, says where things are; gives the exit code."""
    student = training.net.student
    trained = training.loaded(str(folder.path))
    save_encoder(folder.encoder, student, training.takes, trained.facts)
    export_timm(folder.export, student, training.takes)
    rows, count = judged_at_end(training, folder, screen)
    facts = trained.facts | {
        "architecture": student.arch,
        "parameters of the backbone": sum(p.numel() for p in student.backbone.parameters()),
        "width of the features": student.width,
        "precision": "bfloat16 autocast" if training.compute.autocast else "float32",
        "device": str(training.compute.device),
    }
    report = training_report(
        "pretrain",
        f"{facts['method']} on {student.arch}",
        folder.metrics(),
        settled=training.plan.settled,
        facts=facts | {"knn": [row._asdict() for row in rows]},
        environment=environment(),
        command=command_line(),
        timing=timing,
        samples=sample_views(training.loader),
    )
    if rows:
        report = dataclasses.replace(
            report, verdict=f"{verdict(rows, count)} {report.verdict}", tables=(scores(rows), *report.tables)
        )
    report.write(folder.path)
    if as_json:
        print_json(report.document())
    elif rows:
        print_table(scores(rows).title, scores(rows).columns, scores(rows).rows)
    screen.say(
        f"{harmless(report.verdict)}\nReport: {harmless(folder.report_html)}\nEncoder: {harmless(folder.encoder)}\n"
        f"Use it in plain timm:\n{snippet(folder.export, student.width)}"
    )
    return 0


def judged_at_end(training: Training, folder: RunFolder, screen: Screen) -> tuple[Sequence[Judged], int]:
    """The kNN rows of the trained and an untrained encoder, and how many images were judged; none without labels."""
    options = training.plan.options
    data = options.monitor or options.data
    if not options.monitor and not (training.images.labelled and training.images.has_splits):
        return (), 0
    bank, queries = labelled_pair(data, (), seed=options.seed)
    judge = Judge(
        some(bank, BANK, options.seed), some(queries, QUERIES, options.seed), batch_size=256, workers=0, screen=screen
    )
    rows = table(
        judge,
        [training.loaded(str(folder.path))],
        lambda encoder: compute_for(encoder, options),
        PRESETS["weighted"],
        beside=True,
        seed=options.seed,
    )
    return rows, len(judge.queries)


def some(images: ImageSet, most: int, seed: int) -> ImageSet:
    """At most `most` of the images, chosen by the seed."""
    return images if len(images) <= most else images.subset(epoch_order(len(images), seed, 0)[:most])
