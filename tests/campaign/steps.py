"""What happens at a step: the order of the images, numbers that are not finite, saves beside a reader, closed disks."""

import ctypes
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from crash import KILLED, ended, started
from kills import Unbroken, way, without_pictures
from runs import STEPS, begun, child, made_images, pretrain
from saving import identical, saved, state
from trials import trial

from lwcl import engine
from lwcl.checkpoints.training_state import latest_checkpoint
from lwcl.runs.folder import RunFolder
from lwcl.training.state import TrainingState


def noting_images(file: Path) -> Callable[[], None]:
    """Something to do before a run: the numbers of the images of each step are written to a file, in their order."""
    check = engine.check_step_finite

    def noted(scalars: engine.StepScalars, step: int, batch: engine.Batch) -> None:
        with open(file, "a") as lines:
            lines.write(json.dumps([step, batch.index.tolist()]) + "\n")
        check(scalars, step, batch)

    def before() -> None:
        without_pictures()
        engine.check_step_finite = noted

    return before


def order_of(file: Path) -> list[list[int]]:
    """The images of each step as they were last taken."""
    steps = dict(map(json.loads, file.read_text().splitlines()))
    assert list(steps) == list(range(1, STEPS + 1))
    return list(steps.values())


def unbroken_order(folder: Path) -> tuple[Path, list[list[int]]]:
    """Images, and the order in which an unbroken run takes them."""
    data = made_images(folder / "images")
    assert child(pretrain(data, folder / "run"), folder / "cache", before=noting_images(folder / "order")) == 0
    return data, order_of(folder / "order")


@trial("T4", "killed at any step, with 0, 1 or 2 workers: the images come in the same order, unsorted", 30,
       unbroken_order)  # fmt: skip
def ordered(case: int, folder: Path, prepared: tuple[Path, list[list[int]]]) -> None:
    """Kill a run and note the order of its images."""
    words = pretrain(prepared[0], folder / "run", "--workers", str(case % 3), "--cache", ("ram", "off")[case % 2])
    before, fault = noting_images(folder / "order"), f"metrics.append@{1 + case % (STEPS - 1)}"
    assert child(words, folder / "cache", fault, before) == KILLED
    assert child(words, folder / "cache", before=before) == 0
    assert order_of(folder / "order") == prepared[1]


SAVES = 200


@trial("T7", f"a reader beside {SAVES} saves: each time a whole checkpoint, never an older one", 5)
def read_beside_saves(case: int, folder: Path, prepared: None) -> None:
    """Read the newest checkpoint again and again while another process saves."""
    saved(folder / "checkpoints", 1)
    writer = started(lambda: saved(folder / "checkpoints", *range(2, SAVES + 2)))
    told, steps = list[str](), list[int]()
    while True:
        over = os.waitpid(writer, os.WNOHANG)
        found = latest_checkpoint(folder / "checkpoints", told.append)
        assert found is not None and identical(found.tensors, state(found.step))
        steps.append(found.step)
        if over[0]:
            break
    print(len(steps), "reads of", len(set(steps)), "checkpoints")
    assert not os.waitstatus_to_exitcode(over[1]), "the writer failed"
    assert steps == sorted(steps) and steps[-1] == SAVES + 1 and not told, told


CLOSED, OPEN = 0o555, 0o755
CAPABILITY_VERSION, OVERRIDE_MODES = 0x20080522, 0b110  # linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def obey_modes() -> None:
    """Gives up what lets root write to a read-only folder."""
    header, sets = struct.pack("Ii", CAPABILITY_VERSION, 0), ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    words = [word & ~OVERRIDE_MODES if place < 3 else word for place, word in enumerate(struct.unpack("6I", sets.raw))]
    assert libc.capset(header, struct.pack("6I", *words)) == 0


def allow(run: Path, mode: int) -> None:
    """Change the modes of a run's folders."""
    for path in (run, run / "checkpoints"):
        if path.exists():
            path.chmod(mode)


def closing(run: Path, step: int) -> Callable[[], None]:
    """Something to do before a run: its folders become read-only at a step."""
    append = RunFolder.append_metrics

    def closed(folder: RunFolder, record: dict[str, object]) -> None:
        if record["step"] == step:
            allow(run, CLOSED)
        append(folder, record)

    def before() -> None:
        without_pictures()
        RunFolder.append_metrics = closed  # type: ignore[assignment,method-assign]

    return before


@trial("T8", "a run's folder becomes read-only at a step: exit code 5 and why, same bits once it can be written",
       STEPS, lambda folder: way(folder, "light"))  # fmt: skip
def closed_folder(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Close a folder while a run writes to it."""
    obey_modes()
    words = runs[0].again(folder / "run")
    code = ended(begun(words, folder / "cache", before=closing(folder / "run", case + 1)))
    said = (folder / "output.txt").read_text()
    assert code == 5 and "ermission" in said, f"exit code {code}: {said[-300:]}"
    allow(folder / "run", OPEN)
    runs[0].must_end_so(folder / "run", folder / "cache")


def infinite_at(step: int) -> Callable[[], None]:
    """Something to do before a run: the gradient of a step is infinite."""
    compute = engine.compute_gradients
    calls = iter(range(1, 1000))

    def spoiled(*given: Any, **more: Any) -> Any:
        losses = compute(*given, **more)
        if next(calls) == step:
            next(p for p in given[0].parameters() if p.grad is not None).grad.fill_(torch.inf)
        return losses

    def before() -> None:
        without_pictures()
        engine.compute_gradients = spoiled

    return before


@trial("T16", "one infinite gradient in bfloat16, which has no loss scale to lower: exit code 3, no weight changed, "
       "same bits when it goes on", STEPS, lambda folder: way(folder, "bf16"))  # fmt: skip
def infinite(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Make one number of a gradient infinite."""
    words = runs[0].again(folder / "run")
    assert child(words, folder / "cache", before=infinite_at(case + 1)) == 3
    assert f"gradient is inf at step {case + 1}" in (folder / "output.txt").read_text()
    runs[0].must_end_so(folder / "run", folder / "cache")


def replaying(dump: Path, step: int) -> Callable[[], None]:
    """Something to do before a run: it starts before a step, with the weights that were kept for study."""

    def resume(training: TrainingState, *given: object) -> bool:
        training.net.load_state_dict(safetensors.torch.load_file(dump / "net.safetensors"))
        training.done = step - 1
        return True

    def before() -> None:
        TrainingState.resume = resume  # type: ignore[method-assign,assignment]

    return before


@trial("T17", "a run that diverged: weights and images that were kept give the same number that is not finite", 10,
       lambda folder: made_images(folder / "images"))  # fmt: skip
def replayed(case: int, folder: Path, images: Path) -> None:
    """Let a run diverge, and repeat its last step."""
    more = ["--seed", str(case), "--lr", ("1e18", "1e22")[case % 2], *(["--method", "simclr"] if case % 4 < 2 else [])]
    first, step = diverged(pretrain(images, folder / "run", *more), folder)
    words = pretrain(images, folder / "again", *more)
    again, _ = diverged(words, folder, replaying(folder / "run" / "nonfinite" / f"step-{step:06}", step))
    assert first["images"] == again["images"] and step > 1
    assert first["what"].splitlines()[0] == again["what"].splitlines()[0]


def diverged(words: list[str], folder: Path, before: Callable[[], object] = without_pictures) -> tuple[Any, int]:
    """What a run that must diverge has kept, and at which step."""
    assert child(words, folder / "cache", before=before) == 3
    (dump,) = (Path(words[words.index("--out") + 1]) / "nonfinite").glob("step-*")
    kept = json.loads((dump / "state.json").read_text())
    return kept["metadata"], kept["step"]
