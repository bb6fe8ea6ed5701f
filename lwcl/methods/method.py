"""What a training method is: settings as fields, `build` for its modules, `loss` for the scalar to minimise.

Adding a method takes one file in `lwcl/methods/` and no other edit. Registered by `@method(command, name)`, it appears
in `--help`, is trained, resumed and reported, and the parametrised tests pick it up.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from lwcl.settings import Settings, unknown_name_error

if TYPE_CHECKING:
    from torch import Tensor

    from lwcl.models.encoder import Encoder
    from lwcl.models.net import Net

TrainCommand = Literal["pretrain", "distill", "compress", "probe"]
M = TypeVar("M", bound="type[Method]")
T = TypeVar("T")

METHODS: dict[str, type["Method"]] = {}


class Batch(NamedTuple):
    """Views of B images; see `Method.view_groups` for their order."""

    views: "tuple[Tensor, ...]"  # each (B, 3, H, W), normalised; sizes differ between groups
    index: "Tensor"  # type: ignore[assignment]  # (B,) position in the data set
    labels: "Tensor"  # (B,), -1 where unknown; only a probe may read it
    teacher_output: "tuple[Tensor, ...]" = ()  # of each view, (B, D) each; see `Method.teacher_space`


class Loss(NamedTuple):
    """What one step computes: the scalar to minimise, scalars to log, and embeddings whose health is monitored."""

    total: "Tensor"  # ()
    metrics: "dict[str, Tensor]"  # name -> ()
    pairs: "tuple[Tensor, Tensor] | None" = None  # unit embeddings of two views of the images, (B, D) each, detached


class Progress(NamedTuple):
    """How far a run has come after an optimizer step."""

    step: int  # steps taken, all epochs together
    epoch: float  # epochs done, fractional
    epochs: float  # of the whole run

    @property
    def fraction(self) -> float:
        """The part of the run that is done, in [0, 1]: what schedules over a whole run depend on."""
        return min(1.0, self.epoch / self.epochs)  # whole steps may take a little more than `epochs`


@dataclass(frozen=True)
class ViewSpec:
    """A group of views: how many, and how they differ from the run's views.

    Every view is a crop of the image itself, never of another view.
    """

    count: int = 1
    size: float = 1.0  # side relative to the input size of the network; see `pixels`
    crop_scale: tuple[float, float] | None = None  # range of a crop's share of the image's area; None: the run's
    augmentation: Mapping[str, float] = field(default_factory=dict)  # fields of `Augmentation` that differ

    def pixels(self, input_size: int) -> int:
        """The side of a view for a network of this input size; smaller views are multiples of 8, at least 16 px."""
        return input_size if self.size == 1 else max(16, 8 * round(self.size * input_size / 8))


class Method(Settings):
    """The base of all methods; see `lwcl.methods.moco` for one.

    `net` is what `build` returned. Its modules are declared where they are used: the parameter's type is a subclass of
    `Net`, or a `Protocol` of the modules by name.
    """

    name: ClassVar[str]
    command: ClassVar[TrainCommand]
    #: What a teacher computes for each view (`Batch.teacher_output`): its head's unit embeddings (its features if it
    #: has no head), its backbone's features, or nothing: there is no teacher.
    teacher_space: ClassVar[Literal["", "embedding", "features"]] = ""
    #: Whether `initialise` fits something to the teacher's features.
    needs_teacher_features: ClassVar[bool] = False

    @property
    def head_norm(self) -> bool:
        """Whether the projection head has batch norm; see `lwcl.models.encoder.mlp`."""
        return False

    @property
    def teacher_uses_batch_stats(self) -> bool:
        """Whether the teacher's batch norm uses the statistics of the batch instead of its running ones."""
        return False

    @property
    def stalled(self) -> tuple[float | None, str]:
        """The loss of a net that has collapsed to one output for all images, if known, and what to try against it."""
        return None, ""

    def chance(self, batch: int) -> tuple[float, float | None] | None:
        """`top1`, and the loss if known, of a net that cannot tell images apart, in micro-batches of `batch` images.

        None where the method has no such score.
        """
        return None

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """The views of each image, by groups; `Batch.views` has those of the first group first."""
        return (ViewSpec(count=2),)

    def view_specs(self) -> tuple[ViewSpec, ...]:
        """The group of each view, in the order of `Batch.views`."""
        return tuple(spec for spec in self.view_groups() for _ in range(spec.count))

    def grouped(self, views: Sequence[T]) -> list[tuple[T, ...]]:
        """Views, or the teacher's outputs for them, by groups."""
        rest = iter(views)
        return [tuple(next(rest) for _ in range(spec.count)) for spec in self.view_groups()]

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int | str, ...]:
        """The layers of the projection head on a backbone of `width` features; see `lwcl.models.encoder.mlp`."""
        raise NotImplementedError

    def build(self, student: "Encoder", teacher_dim: int = 0) -> "Net":
        """The modules of this method around a student encoder; those that require a gradient are trained.

        `teacher_dim` is the width of the teacher's outputs, 0 without a teacher.
        """
        raise NotImplementedError

    def initialise(self, net: Any, features: "Tensor", seed: int) -> None:
        """Fits, before the first step, what depends on the teacher's features of all N images: (N, D) float32.

        The result is part of the net's state, so a resumed run does not fit again.
        """

    def loss(self, net: Any, batch: Batch, epoch: float) -> Loss:
        """The loss of a batch at `epoch` (fractional, counted from 0)."""
        raise NotImplementedError

    def after_step(self, net: Any, progress: Progress) -> None:
        """Runs after each optimizer step: momentum encoders and queues advance. Override for schedules.

        What it does may depend on the net's state and on `progress` only, so that a resumed run equals an unbroken one.
        """
        net.after_step()


def method(command: TrainCommand, name: str) -> Callable[[M], M]:
    """Registers a method under its command and name."""

    def register(kind: M) -> M:
        kind.command, kind.name = command, name
        METHODS[name] = kind
        return kind

    return register


def methods(command: TrainCommand | None = None) -> dict[str, type[Method]]:
    """All methods by name, or those of one command; imports every file of `lwcl/methods/`."""
    package: Any = importlib.import_module("lwcl.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"lwcl.methods.{module.name}")
    return {name: kind for name, kind in sorted(METHODS.items()) if command in (None, kind.command)}


def method_named(name: str, command: TrainCommand) -> type[Method]:
    """The method of that name; raises `UsageError` with the nearest names."""
    known = methods(command)
    if name not in known:
        raise unknown_name_error(f"{command} method", name, known, "`lwcl list methods` shows them all.")
    return known[name]
