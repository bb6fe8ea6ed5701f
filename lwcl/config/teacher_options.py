"""Options of a teacher, parsed and checked before it is loaded: how its outputs are cached, and the first stage."""

from typing import TYPE_CHECKING, NamedTuple

from lwcl.errors import UsageError
from lwcl.methods.method import Method, methods
from lwcl.settings import AUTO, flag_name, unknown_name_error

if TYPE_CHECKING:
    from lwcl.config.train_options import TrainOptions


class TeacherCacheSpec(NamedTuple):
    """The cached outputs of a teacher: none (`off`), of the center crop (`center`), of `crops` per image (`views`)."""

    kind: str
    crops: int = 0


class FirstStage(NamedTuple):
    """The first stage of a run: a method that learns from a teacher, and its number of epochs."""

    method: str
    epochs: int


def parse_teacher_cache(text: str) -> TeacherCacheSpec:
    """The value of `--teacher-cache`. Raises `UsageError`."""
    kind, _, crops = text.strip().lower().partition(":")
    if kind in ("off", "center") and not crops:
        return TeacherCacheSpec(kind)
    if kind == "views" and crops.isdecimal() and int(crops) > 0:
        return TeacherCacheSpec(kind, int(crops))
    raise UsageError(
        f"--teacher-cache: got {text!r}.", remedy="Give off, center, or views:K, such as views:8 for 8 crops per image."
    )


def parse_teacher_channels(text: str) -> tuple[int, ...]:
    """The value of `--teacher-channels`, empty for auto. Raises `UsageError`."""
    if text == AUTO:
        return ()
    numbers = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if min(numbers) < 1:
        raise UsageError(f"--teacher-channels: got {text!r}.", remedy="Give numbers of channels, from 1, as 3,2,1.")
    return numbers


def parse_init_by(text: str) -> FirstStage:
    """The value of `--init-by`. Raises `UsageError`."""
    name, _, epochs = text.strip().partition(":")
    known = methods("distill") | methods("compress")
    if name not in known:
        raise unknown_name_error("method of --init-by", name, known)
    if not epochs.isdecimal() or int(epochs) < 1:
        raise UsageError(f"--init-by: got {text!r}.", remedy=f"Give a method and its whole epochs, such as {name}:2.")
    return FirstStage(name, int(epochs))


def check_cached_views(method: Method, cache: TeacherCacheSpec) -> None:
    """Raises `UsageError` where cached crops do not cover the views of the method, or groups of views would mix."""
    specs = method.view_specs()
    views, grouped = len(specs), any(spec != specs[0] for spec in specs)
    if not method.teacher_space or cache.kind != "views":
        return
    if cache.crops < views or (grouped and cache.crops % views):
        raise UsageError(
            f"--teacher-cache views:{cache.crops} does not fit {method.name}, which uses {views} views of each image.",
            "Cached crops are used in turn, so each must belong to one group of views." if grouped else "",
            f"Give views:{views} or {'a multiple of it' if grouped else 'more'}.",
        )


def check_student_images(options: "TrainOptions", method: Method, *, alone: bool) -> None:
    """Raises `UsageError` for images of the student's own where there is no teacher that sees others."""
    own = [name for name in ("student_data", "student_view") if getattr(options, name)]
    if len(own) > 1:
        raise UsageError("--student-data and --student-view exclude each other.", remedy="Give one of them.")
    if options.pairs and not options.student_data:
        raise UsageError("--pairs requires --student-data.", remedy="Give --student-data, or leave --pairs out.")
    if own and (not method.teacher_space or alone):
        raise UsageError(
            f"{flag_name(own[0])} does not apply to {method.name}, which learns from the images alone.",
            remedy="Use `lwcl distill` or `lwcl compress`, or give the student's images as --data.",
        )


def check_teacher_options(options: "TrainOptions", method: Method) -> None:
    """Raises `UsageError` for a missing or unused teacher, and for options that contradict each other."""
    cache, first = parse_teacher_cache(options.teacher_cache), getattr(options, "init_by", None)
    learner = methods()[parse_init_by(first).method]() if first else method
    check_cached_views(learner, cache)
    if options.init_head and not options.init:
        raise UsageError("--init-head requires --init.", remedy="Give --init ENCODER.")
    if first and options.init:
        raise UsageError(
            "--init and --init-by exclude each other: both set the initial weights.", remedy="Give one of them."
        )
    check_student_images(options, method, alone=bool(first))
    if options.teacher is None and (method.teacher_space or first):
        raise UsageError(
            f"{f'--init-by {first}' if first else method.name} requires --teacher.",
            remedy="Give --teacher ENCODER: a run folder, a checkpoint, or timm/NAME.",
        )
    if options.teacher is not None and not method.teacher_space and not first:
        raise UsageError(
            f"--teacher does not apply to {method.name}, which learns from the images alone.",
            remedy="Remove --teacher, add --init-by seed:2, or use `lwcl distill` or `lwcl compress`.",
        )
