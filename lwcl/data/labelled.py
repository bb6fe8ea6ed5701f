"""Labelled images for evaluation: the bank, which is searched, and the queries, which are classified."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from lwcl.data.dataset import ImageSet, open_images, split_holdout
from lwcl.errors import DataError
from lwcl.formatting import first_names, plural

HOLDOUT_FRACTION = 0.2  # of the bank becomes the queries if there is no val split
MAX_NAMED_CLASSES = 5  # in a sentence


class LabelledPair(NamedTuple):
    """The bank and the queries, with the bank's class numbers; sentences on what is left out, or counts as wrong.

    A query of a class that the bank lacks has the number after the bank's last: nothing can be right.
    """

    bank: ImageSet
    queries: ImageSet
    notes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # classes of queries that the bank lacks


def open_labelled_pair(
    data: Sequence[str],
    val: Sequence[str],
    *,
    seed: int,
    known_classes: bool = False,
    **reading: Any,
) -> LabelledPair:
    """The bank and the queries that `--data` and `--val` name; with `known_classes` those of the bank's classes only.

    Without a val split, a fifth of the images is held out. Raises `DataError` if labels are missing.
    """
    bank = open_images(data, "train", **reading)
    if val:
        queries = open_images(val, "val", **reading)
    elif bank.has_splits:
        queries = open_images(data, "val", **reading)
    else:
        check_labelled(bank, "--data")
        bank, queries = split_holdout(bank, HOLDOUT_FRACTION, seed)
        if not len(queries):
            what = f"None of the {plural(len(bank.classes), 'class', 'classes')} has two images, one to be held out."
            raise DataError(what, remedy="Give images to classify with --val, or more images of each class.")
    check_labelled(bank, "--data")
    check_labelled(queries, "--val")
    bank, left_out = labelled_only(bank, "the bank")
    pair = match_classes(bank, queries, known_classes=known_classes)
    told = dict.fromkeys((*bank.notes, *pair.queries.notes, *left_out, *pair.notes))
    return pair._replace(notes=tuple(told))


def check_labelled(images: ImageSet, flag: str) -> None:
    """Raises `DataError` unless the images have labels of at least two classes."""
    if not images.labelled or len(images.classes) < 2:
        raise DataError(
            f"{flag}: {plural(len(images), 'image')} without labels.",
            " ".join(("Evaluation needs at least two class folders.", *images.notes)),
            "Put each class into its own folder, or give images with labels.",
        )


def labelled_only(images: ImageSet, name: str) -> tuple[ImageSet, tuple[str, ...]]:
    """The images that have a label, and a sentence on the others, if there are any."""
    known = (images.labels >= 0).nonzero()[:, 0]
    missing = len(images) - len(known)
    if not missing:
        return images, ()
    return images.subset(known), (f"Left out: {plural(missing, 'image')} of {name} without a label.",)


def match_classes(bank: ImageSet, queries: ImageSet, *, known_classes: bool = False) -> LabelledPair:
    """The queries numbered as the bank's classes. Raises `DataError` if they have none of them."""
    queries, left_out = labelled_only(queries, "the images to classify")
    mine, theirs = (
        {images.classes[label] for label in set(images.labels.tolist()) - {-1}} for images in (bank, queries)
    )
    if not mine & theirs:
        raise DataError(
            "The images to classify have no class in common with the bank.",
            f"Bank: {first_names(sorted(mine), MAX_NAMED_CLASSES)}; "
            f"to classify: {first_names(sorted(theirs), MAX_NAMED_CLASSES)}.",
            " ".join(case_notes(mine, theirs)) or "Use the same class folder names in both.",
        )
    numbers = {name: number for number, name in enumerate(bank.classes) if name in mine}
    table = torch.tensor([numbers.get(name, len(bank.classes)) for name in queries.classes])
    matched = dataclasses.replace(queries, labels=table[queries.labels], classes=bank.classes)
    unknown = matched.labels == len(bank.classes)
    if known_classes:
        matched = matched.subset((~unknown).nonzero()[:, 0])
    notes = class_notes(mine, theirs, int(unknown.sum()), len(queries), known_classes=known_classes)
    return LabelledPair(bank, matched, (*left_out, *notes), () if known_classes else tuple(sorted(theirs - mine)))


def class_notes(
    bank: set[str], queries: set[str], unknown: int, total: int, *, known_classes: bool = False
) -> Iterator[str]:
    """What is to be said of classes on one side only, of which `unknown` of `total` queries are."""
    if unknown:
        names = first_names(sorted(queries - bank), MAX_NAMED_CLASSES)
        done = "were left out" if known_classes else "count as wrong (--known-classes leaves them out)"
        yield f"{unknown:,} of {plural(total, 'image')} to classify, of classes that the bank lacks ({names}), {done}."
    if alone := bank - queries:
        names = first_names(sorted(alone), MAX_NAMED_CLASSES)
        yield f"No image to classify is of {plural(len(alone), 'class', 'classes')} of the bank: {names}."
    yield from case_notes(bank, queries)


def case_notes(bank: set[str], queries: set[str]) -> Iterator[str]:
    """Classes whose names differ by case or blanks only, which is seldom meant."""
    plain = {plain_name(name): name for name in sorted(bank - queries)}
    for name in sorted(queries - bank):
        if other := plain.get(plain_name(name)):
            yield f"The classes {other!r} and {name!r} differ by case or blanks only: name them alike if they are one."


def plain_name(name: str) -> str:
    """A class name without what people overlook."""
    return "".join(name.split()).casefold()
