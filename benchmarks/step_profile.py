"""Where the time of a training step goes, operation by operation, in the papers' way and in lwcl's.

Claim: of a step of MobileNetV3-Large lwcl's bfloat16 leaves a third; most comes off depthwise convolutions (523 to 75
ms) and batch norm (387 to 112). ResNet-18 is bound by dense convolutions, near the peak in both. Measured 2026-11-22,
one thread of an AMD EPYC (2 cores, AVX-512 with bf16) under heavy load (8 to 9 other programs), hence CPU time, torch
2.14.1, medians of 5 steps after 3: 64 px, batch 128, queue 4,096, MoCo v2; peaks 93 GFLOP/s in float32 (MKL's product:
oneDNN's convolutions surpass it), 205 in bfloat16, 26.5 GB/s copied. Milliseconds:

                        step  dense  depthwise  norm  activations  casts, copies  two views
    MobileNetV3-Large
        papers' way     1737    560        523   387           59              7        234
        + our allocator 1463    466        371   344           38              8        274
        lwcl, float32    896    416        104   131           45             11         69
        lwcl, bfloat16   603    249         75   112           37             36         62
    ResNet-18
        papers' way     2467   1775               223          201              0        352
        + our allocator 2377   1869               196          161              0        385
        lwcl, float32   1947   1670                65           40              0         56
        lwcl, bfloat16  1047    879                52           38             17         60

There 1 x 1 convolutions reach 45 to 50% of the peak, batch norm a quarter to two fifths of a copy's speed. What
remains of a step is Python, autograd, and the noise of two medians: 10 to 207 ms. Views were made by tensors.

Without AVX-512 (2026-11-27, one thread of an AMD EPYC, Zen 3, beside other programs, 76 GFLOP/s, 12.2 GB/s copied,
float32 only) a step of MobileNetV3-Large takes 2338 ms in the papers' way, 2281 with our allocator, 1249 as lwcl takes
it, with 1 x 1 maps of up to 4 px as products; its views 307, 373 and 47 ms. Its dearest operations: matrix products
299 ms at 68% of the peak, batch norm 159 at 38% of a copy's speed (it reads twice, for the variances), its backward
pass 104 at 44%, 1 x 1 convolutions' backward pass 82 at 41%, forward 73 at 46%. ResNet-18: 3586, 4875 and 3914 ms,
93% of ours in 3 x 3 convolutions, forward at 78% of the peak, backward at 37% (in the papers' way at 65%: the same
kernel, and the other programs); its views 465, 365 and 65 ms. `step_profile.svg` shows these.

The papers' way computes on contiguous float32 tensors and clones its queue; views are made by Pillow, ours by OpenCV,
and timed apart. `clocked.py` says how operations are timed.

    python benchmarks/step_profile.py [--archs resnet18] [--turns 7] [--smoke]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import views
from clocked import Peaks, best, peaks, profile, table
from figures import bars, saved
from peer_ways.papers import backbone, moco_step
from torch import Tensor

from lwcl import engine
from lwcl.config.recipes import Optimization
from lwcl.kernels.depthwise import use_fast_depthwise
from lwcl.kernels.pointwise import use_fast_pointwise
from lwcl.methods.method import Batch, methods
from lwcl.models.encoder import Encoder
from lwcl.system.compute import Compute
from lwcl.system.cpu import keep_freed_memory

HERE, QUEUE, KEPT = Path(__file__).parent, 4096, 10
PAPERS, TUNED, OURS, HALF = "papers' way", "with our allocator", "lwcl float32", "lwcl bfloat16"
#: The operations that a bar tells apart, by how their names begin; the first that fits counts.
GROUPS = {
    "dense convolutions": ("dense",),
    "depthwise convolutions": ("depthwise",),
    "batch norm": ("native_batch_norm",),
    "activations": ("relu", "threshold", "hardswish", "hardsigmoid", "silu", "sigmoid", "max_pool"),
    "products: head, queue, small maps": ("matrix product", "logsumexp", "_log_softmax", "nll", "cat", "topk"),
    "copies, casts, paddings": ("_to_copy", "clone", "copy_", "constant_pad", "flip", "fill", "zero", "ones"),
    "optimizer, key encoder": ("updates", "_fused", "_foreach"),
    "sums, products, other": ("",),
}
BARS = ("views", *GROUPS, "rest (Python, noise)")


def ours(
    arch: str, seen: tuple[Tensor, Tensor], half: bool, name: str = "moco", queue: int = QUEUE
) -> Callable[[], object]:
    """The same step by lwcl's engine; with another method or queue, if given."""
    kind: Any = methods("pretrain")[name]
    method = kind(temperature=0.2, queue_size=queue, key_momentum=0.999)
    net = method.build(Encoder(arch, method.head))
    compute = Compute(torch.device("cpu"), torch.bfloat16 if half else None, channels_last=True)
    compute.place(net)
    use_fast_depthwise(net.student)
    use_fast_pointwise(net)
    settings: Any = Optimization
    recipe = settings(epochs=1000, batch_size=len(seen[0]), lr=0.03, weight_decay=1e-4, warmup=0.0)
    laid = tuple(x.contiguous(memory_format=compute.memory_format) for x in seen)
    batch = Batch(laid, torch.arange(len(seen[0])), torch.full((len(seen[0]),), -1))
    optimizer = engine.build_optimizer(net, recipe, 0.03, 1e-4)
    batches = iter(lambda: batch, None)
    steps = engine.fit(method, net, batches, recipe, optimizer, compute, steps_per_epoch=100, start=0, seed=0)
    return lambda: next(steps)


def grouped(rows: list[dict[str, Any]], step: float, seen: float) -> dict[str, float]:
    """Milliseconds of each part of a bar: views, groups of operations, and what is left of the step."""
    parts = dict.fromkeys(BARS, 0.0) | {"views": 1e3 * seen}
    for row in rows:
        group = next(name for name, starts in GROUPS.items() if row["operation"].startswith(starts))
        parts[group] += row["ms"]
    parts[BARS[-1]] = max(0.0, 1e3 * step - sum(row["ms"] for row in rows))
    return parts


def measure(arch: str, size: int, batch: int, turns: int, tuned: bool, machine: Peaks) -> Iterator[dict[str, Any]]:
    """A row a way: those that need the allocator as it is, or those that need it tuned."""
    torch.manual_seed(0)
    images = (torch.randn(batch, 3, size, size), torch.randn(batch, 3, size, size))
    shapes = {p.shape for p in Encoder(arch, methods("pretrain")["moco"]().head).parameters()}
    side = round(size * views.MARGIN)
    pictures = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    pillow, opencv = views.reference(pictures, size), views.drawn(pictures, size, "opencv")
    papers = moco_step(backbone(arch, size), batch, QUEUE)
    ways: dict[str, tuple[Callable[[], object], Callable[[int], object]]]
    ways = {TUNED if tuned else PAPERS: (lambda: papers(*images), pillow)}
    names = [OURS, *([HALF] if machine.half else [])] if tuned else []
    ways |= {name: (ours(arch, images, name == HALF), opencv) for name in names}
    for name, (step, view) in ways.items():
        seconds, calls = profile(step, shapes, turns)
        seen = best(lambda view=view: view(0), 3)  # type: ignore[misc]
        rows = table(calls, seconds, machine)
        yield {
            **{"benchmark": "step_profile", "date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__},
            **{"threads": 1, "architecture": arch, "pixels": size, "batch": batch, "queue": QUEUE, "way": name},
            **{"peaks": machine._asdict(), "step_ms": 1e3 * seconds, "parts_ms": grouped(rows, seconds, seen)},
            "operations": rows[:KEPT],
        }


def print_operations(row: dict[str, Any]) -> None:
    """Prints a way's dearest operations."""
    views_ms = row["parts_ms"]["views"]
    print(f"\n{row['architecture']}, {row['way']}: {row['step_ms']:.0f} ms a step; its views {views_ms:.0f} ms")
    print(f"  {'operation':28} calls      ms  share         rate  of peak")
    for one in row["operations"]:
        rate = f"{one['gflops']:6.0f} GFLOP/s" if one["gflops"] else f"{one['gb_s']:6.1f} GB/s   "
        print(f"  {one['operation']:28} {one['calls']:5} {one['ms']:7.1f} {one['share']:6.1%}", rate, end=" ")
        print(f"{one['of_peak']:6.0%}", flush=True)


def main() -> None:
    """Measures, prints, draws and appends to results.jsonl (with `--smoke` nothing is kept)."""
    parser = argparse.ArgumentParser(description="Where the time of a training step goes.")
    parser.add_argument("--archs", nargs="+", default=["mobilenetv3_large_100", "resnet18"])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="tiny, and kept nowhere")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    machine = peaks(256 if chosen.smoke else 2048)
    print(f"peaks: {machine.single / 1e9:.0f} GFLOP/s float32, {machine.half / 1e9:.0f} bfloat16", end=", ")
    print(f"{machine.copied / 1e9:.1f} GB/s copied")
    archs, size, batch, turns = chosen.archs, 64, 128, chosen.turns
    if chosen.smoke:
        archs, size, batch, turns = ["test_efficientnet"], 32, 8, 1
    rows = []
    for tuned in (False, True):  # the allocator cannot be set back
        if tuned:
            keep_freed_memory()
        for arch in archs:
            for row in measure(arch, size, batch, turns, tuned, machine):
                print_operations(row)
                rows.append(row)
    if not chosen.smoke:
        with (HERE / "results.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    figure = bars(sorted(rows, key=lambda row: archs.index(row["architecture"])))
    if not chosen.smoke:
        saved(figure, HERE / "step_profile.svg")


if __name__ == "__main__":
    main()
