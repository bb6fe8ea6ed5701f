"""`lwcl bench`: encoders side by side by latency, size, memory and accuracy, whatever runs them."""

from pathlib import Path

from torch import Tensor

from lwcl.checkpoints.load import resolve_encoder_file
from lwcl.checkpoints.onnx_encoder import OnnxEncoder
from lwcl.config.device_options import BenchOptions
from lwcl.config.knn_presets import resolve_vote
from lwcl.evaluation.evaluator import Evaluator, open_evaluator
from lwcl.evaluation.latency import measure_latency
from lwcl.evaluation.memory import peak_megabytes
from lwcl.evaluation.publish import publish
from lwcl.evaluation.subjects import for_clips, load_subject
from lwcl.metrics.bootstrap import bootstrap_interval, mean_top1
from lwcl.metrics.cost import count_macs
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.bench import BenchRow, bench_report, bench_table
from lwcl.reporting.console import Screen
from lwcl.settings import recorded_settings
from lwcl.system.compute import torch_threads
from lwcl.system.device import choose_compute
from lwcl.system.limits import usable_cpus


def run_bench(encoders: list[str], options: BenchOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Measures the encoders, prints a table or JSON, writes a report if asked to; returns the exit code."""
    screen = Screen(quiet=quiet)
    subjects = [load_subject(name, arch=options.arch, image_size=options.image_size) for name in encoders]
    options, subjects = for_clips(options, subjects)
    loaded = [subject.loaded for subject in subjects]
    evaluator = open_evaluator(options, 256, options.val, options.seed, screen) if options.data else None
    rows = []
    for name, one in zip(encoders, loaded, strict=True):
        screen.say(f"{one.name}: latency and memory ...")
        row = measure_encoder(name, one, options)
        rows.append(with_accuracy(row, one, evaluator, options) if evaluator else row)
    facts = {"images": len(evaluator.queries), "data": evaluator.bank.fingerprint} if evaluator else {}
    report = bench_report(
        rows, batch=options.batch_size, threads=options.threads, settings=recorded_settings(options), facts=facts
    )
    publish(
        report,
        screen,
        Path(options.out) if options.out else None,
        tables=[bench_table(rows, options.batch_size)],
        lines=[report.verdict],
        as_json=as_json,
        broken=evaluator.broken if evaluator else (),
    )
    return 0


def measure_encoder(spec: str, loaded: LoadedEncoder, options: BenchOptions) -> BenchRow:
    """The cost of an encoder, on the CPU in float32 or as its file computes."""
    is_onnx = isinstance(loaded.encoder, OnnxEncoder)
    backbone, size = loaded.encoder.backbone, loaded.input_spec.size
    one, many = (
        measure_latency(loaded, batch, threads=options.threads, seconds=options.seconds)
        for batch in (1, options.batch_size)
    )
    return BenchRow(
        name=loaded.name,
        kind=("ONNX int8" if loaded.metadata.get("int8") else "ONNX") if is_onnx else "PyTorch",
        size=size,
        parameters=None if is_onnx else sum(parameter.numel() for parameter in backbone.parameters()),
        macs=None if is_onnx else count_macs(backbone, size, loaded.encoder.channels, loaded.encoder.frames),
        megabytes=size_on_disk(spec, loaded),
        latency=one.median,
        latency_iqr=one.iqr,
        batch_latency=many.median / options.batch_size,
        memory=peak_megabytes(spec, options.arch, options.image_size),
    )


def size_on_disk(spec: str, loaded: LoadedEncoder) -> float:
    """10^6 bytes of the file that is loaded; of the tensors where there is none (timm/NAME, random/NAME)."""
    if spec.startswith(("random/", "timm/")):
        tensors: list[Tensor] = list(loaded.encoder.backbone.state_dict().values())
        return sum(tensor.nbytes for tensor in tensors) / 1e6
    return resolve_encoder_file(spec)[0].stat().st_size / 1e6


def with_accuracy(row: BenchRow, loaded: LoadedEncoder, evaluator: Evaluator, options: BenchOptions) -> BenchRow:
    """The row with the encoder's kNN accuracy, computed with all CPUs."""
    vote = resolve_vote("weighted", None, None, len(evaluator.bank))
    with torch_threads(usable_cpus()):
        score = evaluator.score(loaded, choose_compute(loaded.encoder, options.device, options.precision), vote)
    top1 = score.accuracy.top1
    return row._replace(top1=mean_top1(score.accuracy), interval=bootstrap_interval(top1, options.seed))
