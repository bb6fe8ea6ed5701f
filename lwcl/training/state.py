"""The state of a training run: net, optimizer and step, saved to a checkpoint and resumed from it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch.optim import Optimizer

from lwcl.checkpoints import training_state
from lwcl.checkpoints.optimizer_state import pack_optimizer, unpack_optimizer
from lwcl.config.plan import ResolvedConfig
from lwcl.data.dataset import ImageSet
from lwcl.data.loader import Loader
from lwcl.engine import NonFiniteError
from lwcl.errors import DataError, TrainingDivergedError, UsageError
from lwcl.models.encoder import weights_hash
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.models.net import Net
from lwcl.runs.folder import RunFolder
from lwcl.system import distributed
from lwcl.system.compute import Compute
from lwcl.training.teacher import OnlineTeacher

STATE_PARTS = ("net", "optimizer")  # of a checkpoint
MIN_SAVE_SECONDS = 10.0  # ends of shorter epochs are not all saved


@dataclass
class TrainingState:
    """A training run after `done` steps."""

    config: ResolvedConfig
    images: ImageSet
    input_spec: InputSpec
    net: Net
    optimizer: Optimizer
    compute: Compute
    loader: Loader
    teacher: OnlineTeacher | None = None
    done: int = 0
    begun: float = field(default_factory=time.monotonic)  # earlier by what an interrupted run has trained

    def seconds(self) -> float:
        """Seconds that the run has taken so far, also before it was interrupted."""
        return time.monotonic() - self.begun

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.optimization.steps(self.loader.steps_per_epoch)

    def save(self, folder: RunFolder) -> None:
        """Writes the whole state as a checkpoint of step `done`, in process 0.

        Raises `TrainingDivergedError` where the processes no longer have the same weights.
        """
        check_same_weights(self.net, self.done)
        if distributed.rank():
            return
        packed, facts = pack_optimizer(self.optimizer)
        tensors = {"net": self.net.state_dict(), "optimizer": packed}
        facts = {
            "optimizer": facts,
            "data": self.images.whole_fingerprint,
            "teacher": self.teacher and self.teacher.hash,
        }
        facts["images"] = self.images.whole_identity
        training_state.save_checkpoint(folder.checkpoints, self.done, tensors, facts)
        folder.write_metrics_csv()
        folder.append_elapsed(self.done, self.seconds())

    def dump(self, folder: RunFolder, error: NonFiniteError) -> None:
        """Writes what reproduces a step that was not finite: the weights before it, its images, the last metrics."""
        if distributed.rank():
            return
        names = [self.images.names[index] for index in error.index.tolist()]
        facts = {"step": error.step, "what": str(error), "images": names, "last": folder.metrics()[-50:]}
        training_state.save_checkpoint(folder.path / "nonfinite", error.step, {"net": self.net.state_dict()}, facts)

    def loaded(self, name: str) -> LoadedEncoder:
        """The student as it is now, with the origin of its weights."""
        options = self.config.options
        facts = {
            "origin": f"lwcl {self.config.command}",
            "method": self.config.method.name,
            "recipe": options.recipe,
            "steps": self.done,
            "epochs": round(self.done / self.loader.steps_per_epoch, 6),
            "images": len(self.images),
            "data": self.images.whole_fingerprint,
            "seed": options.seed,
        }
        facts |= {"clip": options.clip} if options.clip else {}
        if options.init:
            facts["init"] = options.init
        if bits := self.net.student.bits:
            facts["bits"] = f"{bits.weights} of weights, {bits.activations} of activations, simulated"
        if self.teacher:
            facts |= {"teacher": self.teacher.loaded.name, "teacher weights": self.teacher.hash}
            facts |= {"teacher licence": self.teacher.licence} if self.teacher.licence else {}
        return LoadedEncoder(name, self.net.student, self.input_spec, facts)

    def resume(self, folder: RunFolder, tell: Callable[[str], None]) -> bool:
        """Loads the newest checkpoint, if there is one. Raises `DataError` for other images or another teacher."""
        newest = None if distributed.rank() else self.newest_checkpoint(folder, tell)
        found = {"step": newest.step, "optimizer": newest.metadata["optimizer"]} if newest else None
        if (facts := distributed.broadcast_json(found)) is None:
            return False
        net, optimizer = (distributed.broadcast_tensors(newest.tensors[part] if newest else {}) for part in STATE_PARTS)
        self.net.load_state_dict(net)
        unpack_optimizer(self.optimizer, optimizer, facts["optimizer"])
        self.done = facts["step"]
        self.begun -= folder.elapsed(self.done)
        return True

    def newest_checkpoint(self, folder: RunFolder, tell: Callable[[str], None]) -> training_state.Checkpoint | None:
        """The newest checkpoint of this run; drops later metrics. Raises as `resume`."""
        newest = training_state.latest_checkpoint(folder.checkpoints, tell)
        folder.truncate_metrics(newest.step if newest else 0)
        if newest is None:
            return None
        if newest.metadata["data"] != self.images.whole_fingerprint:
            if newest.metadata.get("images") != self.images.whole_identity:
                raise DataError(
                    "The images are not those that this run started with.",
                    "File names or sizes have changed.",
                    "Restore them, or start again with --overwrite or another --out.",
                )
            tell("The times of the image files have changed, not their names and sizes: the run goes on.")
        if newest.metadata.get("teacher") != (self.teacher and self.teacher.hash):
            raise DataError(
                "The teacher is not the one that this run started with.",
                "Its weights have changed.",
                "Restore it, or start again with --overwrite or another --out.",
            )
        return newest


def check_same_weights(net: Net, step: int) -> None:
    """Raises `TrainingDivergedError` unless all processes have the same parameters and buffers."""
    hashes = distributed.all_gather_json(weights_hash(net)) if distributed.is_distributed() else []
    for process, found in enumerate(hashes):
        if found != hashes[0]:
            raise TrainingDivergedError(
                f"Processes 0 and {process} have different weights after step {step:,}.",
                "They must be equal: a machine computes wrongly, or a method draws random numbers of its own.",
                "The last checkpoint is sound: start again, without that machine.",
            )


class SaveSchedule:
    """When a checkpoint is due: every N steps or minutes, and at the ends of epochs that are not seconds long."""

    def __init__(self, every: str, steps_per_epoch: int) -> None:
        self.steps, self.seconds = parse_save_every(every)
        self.steps_per_epoch, self.last = steps_per_epoch, time.monotonic()

    def waited(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self.last

    def due(self, step: int, waited: float) -> bool:
        """Whether to save after `step`, given the seconds since the last checkpoint."""
        epoch_end = step % self.steps_per_epoch == 0 and waited > MIN_SAVE_SECONDS
        due = step % self.steps == 0 if self.steps else waited > self.seconds
        if due or epoch_end:
            self.last = time.monotonic()
        return due or epoch_end


def parse_save_every(every: str) -> tuple[int, float]:
    """`--save-every` as (steps, 0) or (0, seconds). Raises `UsageError`."""
    text = every.strip().lower()
    try:
        steps, seconds = (0, 60 * float(text[:-1])) if text.endswith("m") else (int(text), 0.0)
    except ValueError:
        steps, seconds = 0, 0.0
    if steps <= 0 and not 0 < seconds < math.inf:
        raise UsageError(f"--save-every: got {every!r}.", remedy="Give steps, such as 500, or minutes, such as 10m.")
    return steps, seconds
