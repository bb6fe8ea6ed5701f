"""What a training method is: settings as fields, `build` for the modules with state, `loss` for the scalar to descend.

A method is one file in `lwcl/methods/` and no other edit: registered by `@method(verb, name)`, it appears in `--help`,
is trained, resumed and reported, and the parametrised tests pick it up.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from lwcl.settings import Settings, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from lwcl.models.encoder import Encoder
    from lwcl.models.net import Net

Verb = Literal["pretrain", "distill", "compress", "probe"]
M = TypeVar("M", bound="type[Method]")

METHODS: dict[str, type["Method"]] = {}


class Batch(NamedTuple):
    """The same B images, seen `len(views)` ways."""

    views: "tuple[Tensor, ...]"  # each (B, 3, H, W), normalised
    index: "Tensor"  # type: ignore[assignment]  # (B,) position in the data set
    labels: "Tensor"  # (B,), -1 where unknown; only a probe may read it
    taught: "tuple[Tensor, ...]" = ()  # what the teacher says of each view, (B, D) each; see `Method.taught`


class Loss(NamedTuple):
    """What one step computes: the scalar to descend, scalars to log, and the embeddings whose health is watched."""

    total: "Tensor"  # ()
    parts: "dict[str, Tensor]"  # name -> ()
    pairs: "tuple[Tensor, Tensor] | None" = (
        None  # unit embeddings of two views of the same images, each (B, D), detached
    )


class Method(Settings):
    """The base of all methods; see `lwcl.methods.moco` for one."""

    name: ClassVar[str]
    verb: ClassVar[Verb]
    views: ClassVar[int] = 2  # augmented views of each image
    #: What a teacher says of each view, in `Batch.taught`: its head's unit embeddings (its features' where it has no
    #: head), its backbone's features, or nothing, since there is no teacher.
    taught: ClassVar[Literal["", "embedding", "features"]] = ""
    #: Whether `prepare` has something to fit.
    prepares: ClassVar[bool] = False

    @property
    def norm(self) -> bool:
        """Whether the projection head has batch norm; see `lwcl.models.encoder.mlp`."""
        return False

    @property
    def splits(self) -> int:
        """How many parts of a batch are batch-normalised apart."""
        return 1

    @property
    def teacher_by_batch(self) -> bool:
        """Whether the teacher's batch norm takes the statistics of the batch that it is asked about."""
        return False

    def build(self, student: "Encoder", taught: int = 0) -> "Net":
        """The modules of this method around a student encoder; what requires a gradient is trained.

        `taught` is the width of what a teacher says of a view, 0 without one.
        """
        raise NotImplementedError

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """The widths of the projection head on a backbone of `width` features."""
        raise NotImplementedError

    def prepare(self, net: "Net", features: "Tensor", seed: int) -> None:
        """Fits what is fitted once, before the first step, to what the teacher says of all N images: (N, D) float32.

        What it fits is part of the net's state, so that a resumed run does not fit again.
        """

    def loss(self, net: "Net", batch: Batch, epoch: float) -> Loss:
        """The loss of a batch at `epoch` (fractional, counted from 0)."""
        raise NotImplementedError


def method(verb: Verb, name: str) -> Callable[[M], M]:
    """Registers a method under its verb and name."""

    def register(kind: M) -> M:
        kind.verb, kind.name = verb, name
        METHODS[name] = kind
        return kind

    return register


def methods(verb: Verb | None = None) -> dict[str, type[Method]]:
    """All methods by name, or those of one verb; imports every file of `lwcl/methods/`."""
    package: Any = importlib.import_module("lwcl.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"lwcl.methods.{module.name}")
    return {name: kind for name, kind in sorted(METHODS.items()) if verb in (None, kind.verb)}


def method_named(name: str, verb: Verb) -> type[Method]:
    """The method of that name; raises `UsageError` with the nearest names."""
    known = methods(verb)
    if name not in known:
        raise unknown_name(f"{verb} method", name, known, "`lwcl list methods` shows them all.")
    return known[name]
