"""The CPU time of every operation of a training step, and how near it comes to what the machine can do.

Not by torch.profiler: its times are the clock's, and on a machine with other load the longest operations are those that
were interrupted. Here torch's dispatcher hands every operation over, and the thread's own CPU time is taken around it.
What an operation calls inside of its kernel is its own. One thread.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lwcl.kernels import bfloat16

UPDATES = ("add", "add_", "mul", "mul_", "zero_")
WARM_UP = 3  # steps until the heap has grown to its size


class Call(NamedTuple):
    """An operation that was called: what it is, its CPU seconds, and what it computes and moves."""

    kind: str
    seconds: float
    flops: float
    moved: float  # bytes of its inputs and outputs
    half: bool


class Peaks(NamedTuple):
    """What the machine reaches with the threads in use: operations a second, and bytes copied (read + written)."""

    single: float
    half: float
    copied: float


class Clock(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the CPU time of every operation that torch's dispatcher hands to a kernel, backward passes included."""

    def __init__(self, shapes: set[torch.Size]) -> None:
        """`shapes` are those of the parameters: sums and products of such tensors update them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes, self.calls = shapes, list[Call]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begun = time.thread_time()
        result = func(*args, **(kwargs or {}))
        taken = time.thread_time() - begun
        if not getattr(func, "is_view", False):
            given = [x for x in args if isinstance(x, Tensor)]
            gave = [x for x in (result if isinstance(result, tuple | list) else [result]) if isinstance(x, Tensor)]
            kind, flops = described(func.overloadpacket.__name__, args, gave)
            if given and given[0].shape in self.shapes and kind in UPDATES:
                kind = "updates of parameters"
            moved = sum(x.numel() * x.element_size() for x in (*given, *gave))
            half = any(x.dtype == torch.bfloat16 for x in given)
            self.calls.append(Call(kind, taken, flops, moved, half))
        return result


def described(name: str, args: Any, gave: list[Tensor]) -> tuple[str, float]:
    """What to call an operation, and its floating point operations; 0 where only its memory counts."""
    if name in ("mm", "addmm", "bmm"):
        return "matrix product", 2 * gave[0].numel() * args[-1].shape[-2]
    if name not in ("convolution", "convolution_backward"):
        return name, 0
    backward = name == "convolution_backward"
    weight, out, asked = (args[2], args[0], sum(args[10][:2])) if backward else (args[1], gave[0], 1)
    side, groups = weight.shape[2], args[9] if backward else args[8]
    kind = f"{'depthwise' if groups > 1 else 'dense'} {side} x {weight.shape[3]}{', backward' if backward else ''}"
    return kind, asked * 2 * out.numel() * weight[0].numel()


def profile(step: Callable[[], object], shapes: set[torch.Size], turns: int) -> tuple[float, list[Call]]:
    """CPU seconds of a step, and its operations, each with its median: of `turns` steps seen in turn with and without.

    The steps are alike, so that the n-th operation of one is the n-th of all. Some steps warm up.
    """
    plain, seen = list[float](), list[list[Call]]()
    for turn in range(turns + WARM_UP):
        begun = time.process_time()
        step()
        taken = time.process_time() - begun
        with Clock(shapes) as clock:
            step()
        if turn >= WARM_UP:
            plain.append(taken)
            seen.append(clock.calls)
    middle = [same[0]._replace(seconds=statistics.median(x.seconds for x in same)) for same in zip(*seen, strict=True)]
    return statistics.median(plain), middle


def best(run: Callable[[], object], times: int = 25) -> float:
    """The least CPU seconds of a call."""
    taken = []
    for _ in range(times):
        begun = time.thread_time()
        run()
        taken.append(time.thread_time() - begun)
    return min(taken)


def peaks(side: int) -> Peaks:
    """What this machine reaches: products of square matrices of `side`, in bfloat16 0 where slow; copies of 16 such."""
    square, source = torch.randn(side, side), torch.zeros(16 * side * side)
    target = torch.ones_like(source)
    single = 2 * side**3 / best(lambda: square @ square)
    rounded = square.bfloat16()
    half = 0.0 if bfloat16.bf16_is_emulated() else 2 * side**3 / best(lambda: rounded @ rounded)
    return Peaks(single, half, 2 * 4 * len(source) / best(lambda: target.copy_(source)))


def table(calls: list[Call], whole: float, machine: Peaks) -> list[dict[str, Any]]:
    """The operations by kind, the dearest first: calls, milliseconds, share of the step, rates, share of the peak.

    Convolutions and products are held against the peak of products, others against that of copies.
    """
    kinds = defaultdict[str, list[Call]](list)
    for call in calls:
        kinds[call.kind].append(call)
    rows = []
    for kind, same in kinds.items():
        seconds = max(1e-9, sum(call.seconds for call in same))
        flops, moved = sum(call.flops for call in same), sum(call.moved for call in same)
        least = sum(call.flops / (machine.half if call.half else machine.single) for call in same)
        rows.append(
            {
                **{"operation": kind, "calls": len(same), "ms": 1e3 * seconds, "share": seconds / whole},
                **{"gflops": flops / seconds / 1e9, "gb_s": moved / seconds / 1e9},
                "of_peak": (least if flops else moved / machine.copied) / seconds,
            }
        )
    return sorted(rows, key=lambda row: -float(row["ms"]))
