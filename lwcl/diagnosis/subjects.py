"""The encoders that a diagnosis examines, and the augmentation of their random views."""

from collections.abc import Sequence
from dataclasses import dataclass

from lwcl.config.augmentation import AUGMENTATIONS, MOCO_V2, Augmentation
from lwcl.config.eval_options import DiagnoseOptions
from lwcl.errors import UsageError
from lwcl.evaluation.subjects import Subject, load_subject, with_untrained
from lwcl.models.loaded import LoadedEncoder
from lwcl.settings import unknown_name_error

STATIC_VIEWS = "MoCo v2, as in ssl-small's static set"


@dataclass(frozen=True, kw_only=True)
class DiagnosisSubject(Subject):
    """An encoder to examine, and the augmentation of its random views."""

    augmentation: Augmentation
    views: str  # description of the augmentation

    @property
    def kind(self) -> tuple[object, ...]:
        """What its untrained baseline must share with it: also the views."""
        return *super().kind, self.augmentation


def load_subjects(encoders: Sequence[str], options: DiagnoseOptions) -> list[DiagnosisSubject]:
    """The encoders in the order given with their untrained baselines, and last the teacher in the first one's views.

    Raises as `load_subject`.
    """
    subjects = []
    for name in encoders:
        loaded = load_subject(name, arch=options.arch, image_size=options.image_size, seed=options.seed).loaded
        if options.clip or loaded.encoder.frames:
            what = f"lwcl diagnose-clustering looks at images; {name} would see clips of videos."
            raise UsageError(what, remedy="Evaluate it by lwcl knn and lwcl probe.")
        augmentation, views = views_for(loaded, options.views)
        subjects.append(DiagnosisSubject(loaded, augmentation=augmentation, views=views))
    if options.random_init:
        subjects = list(with_untrained(subjects, options.seed))
    if options.teacher:
        teacher = load_subject(options.teacher, arch=options.teacher_arch, seed=options.seed).loaded
        first = subjects[0]
        subjects.append(DiagnosisSubject(teacher, is_teacher=True, augmentation=first.augmentation, views=first.views))
    return subjects


def views_for(loaded: LoadedEncoder, wanted: str) -> tuple[Augmentation, str]:
    """The augmentation that `--views` names for an encoder, and its description. Raises `UsageError`.

    `run`: the augmentation recorded in the encoder's file, or that of `ssl-small` where none is.
    """
    if wanted == "run" and (recorded := loaded.metadata.get("augmentation")):
        return Augmentation(**recorded), "those of its run"
    if wanted in ("run", "ssl-small"):
        return Augmentation(**MOCO_V2), STATIC_VIEWS
    if wanted not in AUGMENTATIONS:
        raise unknown_name_error("value of --views", wanted, ("run", *AUGMENTATIONS))
    return Augmentation(**AUGMENTATIONS[wanted]), wanted
