"""Splits and classes read from folder names, and stratified hold-out sets.

Pure functions of names; the conventions are those of ImageNet, Imagenette, CIFAR as PNG files and torchvision's
ImageFolder.
"""

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lwcl.data.sources.packed import Coded, PackedNames
from lwcl.formatting import first_names, plural

Split = Literal["train", "val", "all"]
SPLIT_FOLDER_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_BY_FOLDER_NAME = {word: split for split, words in SPLIT_FOLDER_NAMES.items() for word in words}
#: A split's word that stands alone in a folder's name, with what is around it: `seg_train`, `train2017`.
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(SPLIT_BY_FOLDER_NAME, key=len, reverse=True))})(?![a-z])")
OTHER_SPLIT = "other"  # next to the splits of a source, but in none of them
MAX_SPLIT_DEPTH = 3  # levels below the folders that all names share


Labels = str  # "top", "leaf", a level, from 1, or "none"
NO_LABELS = "none"  # folders are not classes


class FolderLayout(NamedTuple):
    """For each name its split (train, val, test, other, or "" if its source has none) and its class or ""."""

    splits: Coded
    classes: Coded


def parse_folder_layout(names: PackedNames, labels: Labels = "top") -> FolderLayout:
    """Read splits and classes from the folders of one source's names.

    Below the folders that all names share, the first of three levels with a training folder next to a val or test
    folder defines the splits; if a shared folder names a split, all images belong to it. The class is the first folder
    below the split (else below the shared folders), if there are at least two; `labels` chooses another level.
    """
    used, codes = np.unique(names.codes, return_inverse=True)
    splits, classes = layout_of_folders([names.folders[code].split("/")[:-1] for code in used], labels)
    return FolderLayout(Coded.of(splits).taken(codes), Coded.of(classes).taken(codes))


def layout_of_folders(folders: Sequence[list[str]], labels: Labels) -> tuple[list[str], list[str]]:
    """The split and the class of each of these folders, which are all that hold images; see `parse_folder_layout`."""
    first, last = min(folders), max(folders)
    shared = [
        folder for folder, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    ]
    whole = next(
        (SPLIT_BY_FOLDER_NAME[folder.lower()] for folder in reversed(shared) if folder.lower() in SPLIT_BY_FOLDER_NAME),
        "",
    )
    for level in range(len(shared), len(shared) + MAX_SPLIT_DEPTH):
        splits = splits_at_level(folders, level)
        if "train" in splits and ("val" in splits or "test" in splits):
            return splits, classes_at_level(folders, level + 1, labels)
    return [whole] * len(folders), classes_at_level(folders, len(shared), labels)


def splits_at_level(folders: Sequence[Sequence[str]], level: int) -> list[str]:
    """The split of each path by its folder at this level; other words around the splits' must be the same.

    So `seg_train` goes with `seg_test`, `train2017` with `val2017`, and `train_station` not with `test_tube`.
    """
    told = [split_of_folder(path[level].lower()) if len(path) > level else (OTHER_SPLIT, "") for path in folders]
    splits_by_rest: dict[str, set[str]] = {}
    for split, rest in set(told):
        splits_by_rest.setdefault(rest, set()).add(split)
    pairs = [rest for rest, splits in splits_by_rest.items() if "train" in splits and splits & {"val", "test"}]
    chosen = min(pairs, key=lambda rest: (len(rest), rest), default="*")
    return [split if rest == chosen else OTHER_SPLIT for split, rest in told]


@functools.lru_cache(maxsize=1024)
def split_of_folder(name: str) -> tuple[str, str]:
    """The split that a folder's name in lower case tells, and the name with `*` for the split's word."""
    found = SPLIT_WORD.search(name)
    if not found:
        return OTHER_SPLIT, ""
    return SPLIT_BY_FOLDER_NAME[found[1]], f"{name[: found.start()]}*{name[found.end() :]}"


def classes_at_level(folders: Sequence[Sequence[str]], level: int, labels: Labels = "top") -> list[str]:
    """The folder at this level of each path, or below it, "" if there is none; all "" if fewer than two differ."""
    if labels == NO_LABELS:
        return [""] * len(folders)
    if labels == "leaf":
        classes = [path[-1] if len(path) > level else "" for path in folders]
    else:
        level += 0 if labels == "top" else int(labels) - 1
        classes = [path[level] if len(path) > level else "" for path in folders]
    classes = [unicodedata.normalize("NFC", name) for name in classes]  # macOS writes accents as letters of their own
    return classes if len(set(classes) - {""}) >= 2 else [""] * len(classes)


def is_folder_level(labels: str) -> bool:
    """Whether `--labels` names a level of folders, not a table."""
    return labels in ("top", "leaf", NO_LABELS) or (labels.isdecimal() and int(labels) > 0)


def layout_notes(spec: str, names: PackedNames, layout: FolderLayout, labels: Labels) -> Iterator[str]:
    """What a user may not expect of folders: classes on several levels, and images outside the splits."""
    beside = layout.splits.count(OTHER_SPLIT)
    if beside:
        codes = np.unique(names.codes[layout.splits.mask(OTHER_SPLIT)])
        folders = sorted({names.folders[code].removesuffix("/") for code in codes})
        counts = {split: layout.splits.count(split) for split in ("train", "val", "test")}
        used = ", ".join(f"{split} {count:,}" for split, count in counts.items() if count)
        yield (
            f"{spec}: {used}; ignored: {plural(beside, 'image')} outside the split folders "
            f"({first_names(folders, 3)}); give those folders with another --data to use them."
        )
    leaves = parse_folder_layout(names, "leaf").classes
    tops, below = layout.classes.present - {""}, leaves.present - {""}
    if labels == "top" and tops and below != tops:
        yield (
            f"{spec}: classes are the first of several levels of folders ({len(tops):,} classes); the last level has "
            f"{len(below):,}: --labels leaf takes those."
        )


def has_splits(splits: Coded) -> bool:
    """Whether there is both a training split and a validation or test split."""
    return "train" in splits.present and bool(splits.present & {"val", "test"})


def positions_of_split(splits: Coded, split: Split) -> npt.NDArray[np.int64]:
    """Positions of the images of a split; all of them if there are no splits.

    `val` means test if there is no val. Images of sources without splits count as training images.
    """
    if split == "all" or not has_splits(splits):
        return np.arange(len(splits))
    wanted = ("train", "") if split == "train" else ("val" if "val" in splits.present else "test",)
    return np.flatnonzero(splits.mask(*wanted))


def stratified_holdout(
    names: Sequence[str], labels: Sequence[int], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Which images (N,) bool to hold out: the same fraction of each label, by a hash of (seed, name).

    At least one image of a label stays on each side, if it has two. A name's rank depends on nothing else, so a set
    that grows keeps most of its split.
    """
    groups: dict[int, list[tuple[bytes, int]]] = {}
    for position, (name, label) in enumerate(zip(names, labels, strict=True)):
        digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
        groups.setdefault(label, []).append((digest, position))
    out = np.zeros(len(names), dtype=np.bool_)
    for group in groups.values():
        count = min(max(round(fraction * len(group)), 1), len(group) - 1)
        out[[position for _, position in sorted(group)[:count]]] = True
    return out
