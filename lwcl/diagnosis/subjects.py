"""Which encoders a diagnosis examines, in which random views: those asked about, untrained ones beside, a teacher."""

from typing import NamedTuple

from lwcl.checkpoints.load import load_encoder
from lwcl.config.augmentation import AUGMENTATIONS, MOCO_V2, Augmentation
from lwcl.config.eval_options import DiagnoseOptions
from lwcl.evaluation.judge import untrained_like
from lwcl.models.check_forward import check_forward
from lwcl.models.loaded import LoadedEncoder
from lwcl.settings import unknown_name

STATIC_VIEWS = "those of MoCo v2, as in ssl-small's static set"


class Subject(NamedTuple):
    """An encoder to examine: what it is there for (encoder, teacher or untrained), and its random views, in words."""

    loaded: LoadedEncoder
    role: str
    augmentation: Augmentation
    views: str

    @property
    def kind(self) -> tuple[object, ...]:
        """What it shares with the untrained encoder that it is compared with."""
        return self.loaded.encoder.arch, str(self.loaded.encoder.arguments), self.loaded.input_spec, self.augmentation


def load_subjects(encoders: list[str], options: DiagnoseOptions) -> list[Subject]:
    """The encoders in the order given, each followed by the untrained one of its kind, once; the teacher comes last.

    The teacher sees the views of the first encoder. Raises `UsageError` for what cannot be loaded or takes no images
    of its size.
    """
    found: list[Subject] = []
    for spec in encoders:
        loaded = load_encoder(spec, arch=options.arch, image_size=options.image_size, seed=options.seed)
        role = "untrained" if loaded.metadata.get("origin") == "untrained" else "encoder"
        one = Subject(loaded, role, *views_for(loaded, options.views))
        kinds = {other.kind for other in found if other.role == "untrained"}
        found.append(one)
        if options.random_init and role == "encoder" and one.kind not in kinds:
            found.append(one._replace(loaded=untrained_like(loaded, options.seed), role="untrained"))
    if options.teacher:
        loaded = load_encoder(options.teacher, arch=options.teacher_arch, seed=options.seed)
        found.append(found[0]._replace(loaded=loaded, role="teacher"))
    for one in found:
        check_forward(one.loaded.encoder, one.loaded.input_spec.size)
    return found


def views_for(loaded: LoadedEncoder, wanted: str) -> tuple[Augmentation, str]:
    """The random views that `--views` asks for an encoder, and what they are, in words. Raises `UsageError`.

    `run`: those that its file says it was trained with; where it says none, those of `ssl-small`.
    """
    if wanted == "run" and (told := loaded.metadata.get("augmentation")):
        return Augmentation(**told), "those of its run"
    if wanted in ("run", "ssl-small"):
        return Augmentation(**MOCO_V2), STATIC_VIEWS
    if wanted not in AUGMENTATIONS:
        raise unknown_name("value of --views", wanted, ("run", *AUGMENTATIONS))
    return Augmentation(**AUGMENTATIONS[wanted]), wanted
