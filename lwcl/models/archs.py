"""The names of timm's models, from `archs.txt`, so that timm need not be imported to check one.

If another version of timm is installed than the list is of, timm itself is asked before a name is refused.
"""

import difflib
import importlib
import re
from functools import cache
from importlib.resources import files

from lwcl.errors import UsageError
from lwcl.settings import unknown_name_error

#: Networks for clips, of torchvision.
VIDEO_ARCHS = ("video/r3d_18", "video/mc3_18", "video/r2plus1d_18", "video/s3d")


def is_video_arch(name: str) -> bool:
    """Whether an architecture takes clips of videos."""
    return name.startswith("video/")


@cache
def known_archs() -> tuple[str, tuple[str, ...]]:
    """The version of timm that `archs.txt` is of, and the names of its models."""
    first, *names = files("lwcl.models").joinpath("archs.txt").read_text(encoding="utf-8").splitlines()
    return first.removeprefix("# timm "), tuple(names)


def check_arch(name: str) -> str:
    """The name of an architecture of timm; raises `UsageError` with the nearest names.

    For a name that is not listed, another version of timm is imported and asked (seconds).
    """
    if is_video_arch(name):
        if name not in VIDEO_ARCHS:
            raise unknown_name_error("architecture", name, VIDEO_ARCHS, f"Give {', '.join(VIDEO_ARCHS)}.")
        return name
    version, names = known_archs()
    if name.partition(".")[0] in names:
        return name
    from importlib.metadata import version as installed  # 25 ms, and only for names that are not listed

    if installed("timm") != version and importlib.import_module("timm").is_model(name):
        return name
    plain = re.split("[/:]", name)[-1]
    if plain != name and plain.partition(".")[0] in names:  # timm/resnet18.a1_in1k, hf_hub:timm/resnet18.a1_in1k
        what, why = f"Unknown architecture: {name!r}.", f"timm itself calls it {plain.partition('.')[0]}."
        raise UsageError(
            what, why, f"Give {plain.partition('.')[0]}; the weights of a hub are --init hf-hub:OWNER/NAME."
        )
    raise unknown_name_error(
        "architecture", name, names, "`lwcl list archs` shows them all, `lwcl list archs mobilenet` some."
    )


def suggest_encoder(spec: str) -> str:
    """A question that suggests a model of timm for an encoder that was not found; "" if none is similar."""
    near = difflib.get_close_matches(spec, known_archs()[1], n=1, cutoff=0.8)
    return "".join(f"Did you mean random/{name} or timm/{name}?" for name in near)
