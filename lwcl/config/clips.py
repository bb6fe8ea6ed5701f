"""`--clip` and `--temporal`: how videos become samples, and how a network for images sees a clip."""

import re
from typing import TYPE_CHECKING

from lwcl.errors import UsageError
from lwcl.models.archs import is_video_arch
from lwcl.settings import Settings, setting

if TYPE_CHECKING:
    from lwcl.config.train_options import TrainOptions

MAX_CLIP_FRAMES, MAX_STRIDE = 256, 1000
EXAMPLE = "Give FRAMESxSTRIDE: --clip 8x4 takes 8 frames, every fourth of a video."


class ClipOptions(Settings):
    """Whether samples are clips of videos, and how a network for images sees them."""

    clip: str = setting(
        "",
        "FRAMESxSTRIDE: --data holds videos, and a sample is a clip of so many frames, so many frames of the video "
        "apart, such as 8x4 [images; evaluation: the encoder's]",
        group="Data",
    )
    temporal: str | None = setting(
        None,
        "how a network for images sees a clip: mean averages its features over the frames; shift (TSM) lets frames "
        "exchange channels too",
        choices=("mean", "shift"),
        group="What",
    )


def parse_clip(text: str) -> tuple[int, int]:
    """The frames and the stride of a `--clip`; (0, 0) if it is empty. Raises `UsageError`."""
    if not text:
        return 0, 0
    match = re.fullmatch(r"(\d{1,4})\s*[xX]\s*(\d{1,4})", text.strip())
    frames, stride = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= frames <= MAX_CLIP_FRAMES or not 1 <= stride <= MAX_STRIDE:
        limits = f"From 1 to {MAX_CLIP_FRAMES} frames, 1 to {MAX_STRIDE} apart." if match else ""
        raise UsageError(f"--clip: got {text!r}.", limits, EXAMPLE)
    return frames, stride


def check_clip(options: "TrainOptions") -> None:
    """Raises `UsageError` where architecture, `--clip` and `--temporal` do not fit each other."""
    frames, _ = parse_clip(options.clip)
    video = is_video_arch(options.arch)
    if video and not frames:
        raise UsageError(f"{options.arch} is a network for videos: --clip is missing.", remedy=EXAMPLE)
    if options.temporal and not frames:
        what = f"--temporal {options.temporal} is for clips of videos, and --clip is missing."
        raise UsageError(what, remedy=f"{EXAMPLE} For images leave --temporal out.")
    if options.temporal and video:
        what = f"--temporal {options.temporal} is for networks for images; {options.arch} computes over time itself."
        raise UsageError(what, remedy="Leave --temporal out.")
    if frames and not video and not options.temporal:
        raise UsageError(
            f"{options.arch} is a network for images; --clip {options.clip} would give it {frames} frames at once.",
            "It needs to be said how it sees them.",
            "Give --temporal mean (features averaged over frames) or shift (frames also exchange channels), or "
            "--arch video/r3d_18.",
        )
    for flag in ("student_data", "student_view", *(["bits"] if video else [])):
        if frames and getattr(options, flag, None):
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{name} is for images, not for clips of videos.", remedy=f"Leave {name} or --clip out.")
