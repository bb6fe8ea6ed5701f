"""The encoders that a command evaluates: those named, an untrained one of each kind as a baseline, a teacher."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from lwcl.checkpoints.load import load_encoder
from lwcl.config.clips import parse_clip
from lwcl.config.train_options import DataOptions
from lwcl.models.encoder import check_forward
from lwcl.models.loaded import LoadedEncoder, random_encoder
from lwcl.models.pixel_format import PixelFormat
from lwcl.models.probe import check_weights_finite

Role = Literal["encoder", "teacher", "untrained"]


@dataclass(frozen=True)
class Subject:
    """An encoder to evaluate."""

    loaded: LoadedEncoder
    is_teacher: bool = False

    @property
    def untrained(self) -> bool:
        """Whether it is a random initialisation."""
        return self.loaded.metadata.get("origin") == "untrained"

    @property
    def role(self) -> Role:
        """What it is evaluated for."""
        return "teacher" if self.is_teacher else "untrained" if self.untrained else "encoder"

    @property
    def kind(self) -> tuple[object, ...]:
        """What it has in common with the untrained encoder that is its baseline."""
        return self.loaded.encoder.arch, str(self.loaded.encoder.arguments), self.loaded.input_spec


S = TypeVar("S", bound=Subject)
V = TypeVar("V")
Options = TypeVar("Options", bound=DataOptions)


def load_subject(
    name: str, *, arch: str | None = None, image_size: int | None = None, seed: int = 0, is_teacher: bool = False
) -> Subject:
    """The encoder that `name` stands for (see `load_encoder`), checked.

    Raises `UsageError` where it cannot be loaded or does not accept its image size, `TrainingDivergedError` where its
    weights are not finite.
    """
    loaded = load_encoder(name, arch=arch, image_size=image_size, seed=seed)
    check_weights_finite(loaded.name, loaded.encoder)
    check_forward(loaded.encoder, loaded.input_spec.size)
    return Subject(loaded, is_teacher)


def untrained_like(loaded: LoadedEncoder, seed: int) -> LoadedEncoder:
    """An untrained encoder of the same architecture for the same input."""
    return random_encoder(loaded.encoder.arch, loaded.input_spec, seed, loaded.encoder.arguments)


def for_clips(options: Options, subjects: Iterable[S]) -> tuple[Options, list[S]]:
    """The options with the clip of the first encoder of videos, and each encoder as it is for that data.

    Raises `UsageError` for an encoder of images on clips without --temporal.
    """
    loaded = list(subjects)
    own = [clip for one in loaded if (clip := one.loaded.input_spec.pixel_format.clip)]
    given, options = bool(options.clip), replace(options, clip=options.clip or next(iter(own), ""))
    frames, stride = parse_clip(options.clip)
    pixels = PixelFormat(frames=frames, stride=stride)
    keeps = [bool(one.loaded.input_spec.pixel_format.frames) and not given for one in loaded]
    return options, [
        one if kept else replace(one, loaded=one.loaded.for_data(pixels, options.temporal))
        for one, kept in zip(loaded, keeps, strict=True)
    ]


def with_untrained(subjects: Iterable[S], seed: int) -> Iterator[S]:
    """The subjects, each trained one followed by an untrained encoder of its kind, which comes once."""
    kinds: set[object] = set()
    for subject in subjects:
        if subject.untrained and subject.kind in kinds:
            continue
        yield subject
        if subject.kind not in kinds and not subject.untrained:
            yield replace(subject, loaded=untrained_like(subject.loaded, seed), is_teacher=False)
        kinds.add(subject.kind)


def baselines(subjects: Sequence[Subject], values: Sequence[V]) -> list[V | None]:
    """For each subject the value of the untrained encoder of its kind, if there is one; None for untrained ones."""
    known: dict[object, V] = {}
    for subject, value in zip(subjects, values, strict=True):
        if subject.untrained:
            known.setdefault(subject.kind, value)
    return [None if subject.untrained else known.get(subject.kind) for subject in subjects]
