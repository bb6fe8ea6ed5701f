"""One training step of a small model of every family of timm, each in a process of its own: which die, which differ.

    ONEDNN_MAX_CPU_ISA=AVX2 python tests/campaign/sweep_timm.py OUT [--sizes 64 224] [--modes kernels plain]

A step is taken with the channels first and again with them last, by torch alone (`plain`) and with lwcl's kernels
(`kernels`); outputs and gradients must agree. Each result is a line of OUT/results.jsonl: a sweep that was stopped goes
on. OUT/table.md is the table of all that is not well, and of how many are. With `LD_PRELOAD=libguard.so`, if there is a
library that puts a page without access behind each block of memory, a write beyond the end of a block is found at once.
"""

import argparse
import contextlib
import copy
import itertools
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash import ended
from families import FAMILIES

from lwcl.errors import UsageError
from lwcl.kernels.selection import use_cpu_kernels
from lwcl.models.backbone import build_backbone

MODES = ("plain", "kernels")
BATCH = 4
#: A sum in another order differs less than this from the same sum, as a share of its norm; a wrong one by more.
MAX_DIFFERENCE = 0.02
MAX_TIMES = 10  # how much farther than the channels-first step from that of float64, where both are far


def build_model(arch: str, size: int) -> nn.Module:
    """A model of timm as lwcl builds it, in training, without what is drawn by chance."""
    torch.manual_seed(0)
    model = build_backbone(arch, image_size=size)[0].train()
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def take_step(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The outputs and all gradients of one step."""
    output = model(images)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, generator=generator))
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return [output.detach(), torch.cat([gradient.flatten() for gradient in gradients])]


def compare_steps(arch: str, size: int, mode: str) -> dict[str, Any]:
    """What the step of a model gives: `result` (ok, differs, ill-conditioned, not finite, refused) and how far off."""
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        model = build_model(arch, size)
        first = take_step(copy.deepcopy(model), images)
    except (UsageError, RuntimeError, ValueError, AssertionError) as error:
        return {"result": "refused", "why": " ".join(str(error).split())[:200]}
    model = model.to(memory_format=torch.channels_last)
    if mode == "kernels":
        use_cpu_kernels(model, model)
    last = take_step(model, images.contiguous(memory_format=torch.channels_last))
    if not all(bool(tensor.isfinite().all()) for tensor in (*first, *last)):
        return {"result": "not finite"}
    difference = largest_difference(first, last)
    if difference < MAX_DIFFERENCE:
        return {"result": "ok", "difference": difference}
    exact = take_step(build_model(arch, size).double(), images.double())
    errors = [largest_difference(exact, step) for step in (first, last)]
    worse = errors[1] > MAX_DIFFERENCE + MAX_TIMES * errors[0]
    return {"result": "differs" if worse else "ill-conditioned", "difference": difference, "errors": errors}


def largest_difference(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference of outputs or gradients, as a share of their norm."""
    pairs = zip(ones, others, strict=True)
    return max(float((one - other).norm() / (one.norm() + 1e-12)) for one, other in pairs)


def step_in_child(arch: str, size: int, mode: str, seconds: int) -> dict[str, Any]:
    """`compare_steps` in a forked child; one that dies gives `died` with its signal, or `out of time`."""
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(compare_steps(arch, size, mode)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    code = ended(child)
    if code == -signal.SIGXCPU:
        return {"result": "out of time"}
    return json.loads(text) if text and not code else {"result": "died", "exit_code": code}


def pending(
    done: list[dict[str, Any]], sizes: list[int], modes: list[str], only: str
) -> Iterator[tuple[str, int, str]]:
    """Architecture, size (or the smallest that it takes, if larger) and mode of all that is not done, by mode."""
    known = {(row["arch"], row["size"], row["mode"]) for row in done}
    for size, mode, (arch, smallest) in itertools.product(sizes, modes, FAMILIES):
        step = (arch, max(size, smallest), mode)
        if only in arch and step not in known:
            known.add(step)
            yield step


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown: how many of each, and each that is not well."""
    counts = Counter((row["isa"], row["size"], row["mode"], row["result"]) for row in rows)
    lines = ["| CPU | pixels | kernels | result | models |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(map(str, (*key, count))) + " |" for key, count in sorted(counts.items())]
    lines += ["", "| CPU | model | pixels | kernels | result | |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row["result"] not in ("ok", "refused", "ill-conditioned"):
            what = row.get("exit_code", row.get("difference", ""))
            lines.append(f"| {row['isa']} | {row['arch']} | {row['size']} | {row['mode']} | {row['result']} | {what} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Sweeps, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--modes", choices=MODES, nargs="+", default=MODES)
    parser.add_argument("--only", default="", help="part of a model's name")
    parser.add_argument("--seconds", type=int, default=180, help="CPU time of one step")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA") or torch.backends.cpu.get_cpu_capability()
    results = given.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for arch, size, mode in pending([row for row in rows if row["isa"] == isa], given.sizes, given.modes, given.only):
        begun = time.monotonic()
        row = {"isa": isa, "arch": arch, "size": size, "mode": mode} | step_in_child(arch, size, mode, given.seconds)
        row["seconds"] = round(time.monotonic() - begun, 1)
        rows.append(row)
        with open(results, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    (given.out / "table.md").write_text(table(rows))


if __name__ == "__main__":
    main()
