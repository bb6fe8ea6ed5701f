"""Teachers of timm that learned without class labels, from `teachers.txt`; licences of weights; sizes that patches fit.

Name, licence and input size are those of timm's `default_cfg`; timm itself is not imported.
"""

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

#: Licences that allow commercial use without terms of their own.
PERMISSIVE_LICENCES = frozenset({"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"})
#: What the names of licences have that do not allow commercial use; `amlr` is Apple's for research.
NON_COMMERCIAL = re.compile(r"\bnc\b|noncommercial|\bamlr\b")


class TimmTeacher(NamedTuple):
    """A model of timm with weights that were trained without class labels."""

    name: str
    licence: str
    width: int  # of the features
    size: int  # pixels of its input
    macs: int  # multiply-accumulates per image of that size

    @property
    def about(self) -> str:
        """Its facts as text."""
        return f"{self.licence}, {self.width} features, {self.size} px, {self.macs / 1e9:.3g} GMACs"


@cache
def known_teachers() -> tuple[TimmTeacher, ...]:
    """The teachers of `teachers.txt`, those of permissive licences first, each group by cost."""
    lines = files("lwcl.models").joinpath("teachers.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    teachers = (TimmTeacher(name, licence, *map(int, numbers)) for name, licence, *numbers in rows)
    return tuple(sorted(teachers, key=lambda teacher: (teacher.licence not in PERMISSIVE_LICENCES, teacher.macs)))


def licence_warning(licence: str) -> str:
    """What to know about the licence of a teacher's weights; "" for a permissive one."""
    if licence in PERMISSIVE_LICENCES:
        return ""
    if licence in ("", "None", "unknown"):
        return "timm states no licence for the teacher's weights: find it out before you use or share the student."
    if NON_COMMERCIAL.search(licence):
        return f"The teacher's licence is {licence}: no commercial use, which may extend to the student."
    return f"The teacher's licence is {licence}, with terms of its own: read them before you use or share the student."


def patch_multiple(arch: str, size: int) -> int:
    """`size` in pixels, rounded down to a multiple of the patch in the name of a vision transformer, if it has one."""
    patch = re.search(r"_patch(\d+)(?:_|\.|$)", arch)
    side = int(patch[1]) if patch else 1
    return max(side, size - size % side)
