"""The names of timm's models: they stand in `archs.txt`, so that timm need not be imported to know them.

Another timm than the list was made from is asked before a name is refused.
"""

import difflib
import importlib
from functools import cache
from importlib.resources import files

from lwcl.settings import unknown_name


@cache
def known_archs() -> tuple[str, tuple[str, ...]]:
    """The version of timm that `archs.txt` was made from, and the names of its models."""
    first, *names = files("lwcl.models").joinpath("archs.txt").read_text(encoding="utf-8").splitlines()
    return first.removeprefix("# timm "), tuple(names)


def check_arch(name: str) -> str:
    """The name of an architecture of timm; raises `UsageError` with the nearest names.

    A name that is not listed is asked of timm itself (seconds) if it is another timm than the list was made from.
    """
    version, names = known_archs()
    if name.partition(".")[0] in names:
        return name
    from importlib.metadata import version as installed  # 25 ms, and only for names that are not listed

    if installed("timm") != version and importlib.import_module("timm").is_model(name):
        return name
    raise unknown_name(
        "architecture", name, names, "`lwcl list archs` shows them all, `lwcl list archs mobilenet` some."
    )


def suggest_encoder(spec: str) -> str:
    """What an encoder that is no file may have meant: a question, or "" where no model of timm is near."""
    near = difflib.get_close_matches(spec, known_archs()[1], n=1, cutoff=0.8)
    return "".join(f"Did you mean random/{name} or timm/{name}?" for name in near)
