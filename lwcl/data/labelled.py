"""Labelled images for evaluation: the bank, which is searched, and the queries, which are classified."""

import dataclasses
from collections.abc import Sequence

import torch

from lwcl.data.dataset import ImageSet, open_images, split_holdout
from lwcl.errors import DataError
from lwcl.formatting import plural

HOLDOUT_FRACTION = 0.2  # of the bank becomes the queries if there is no val split


def open_labelled_pair(
    data: Sequence[str], val: Sequence[str], *, seed: int, download: bool = False
) -> tuple[ImageSet, ImageSet]:
    """The bank and the queries that `--data` and `--val` name, with the same class numbers.

    Without a val split, a fifth of the images is held out. Raises `DataError` if labels are missing.
    """
    bank = open_images(data, "train", download=download)
    if val:
        queries = open_images(val, "val", download=download)
    elif bank.has_splits:
        queries = open_images(data, "val", download=download)
    else:
        check_labelled(bank, "--data")
        bank, queries = split_holdout(bank, HOLDOUT_FRACTION, seed)
    check_labelled(bank, "--data")
    check_labelled(queries, "--val")
    return bank, match_classes(bank, queries)


def check_labelled(images: ImageSet, flag: str) -> None:
    """Raises `DataError` unless the images have labels of at least two classes."""
    if not images.labelled or len(images.classes) < 2:
        raise DataError(
            f"{flag}: {plural(len(images), 'image')} without labels.",
            "Evaluation needs at least two class folders.",
            "Put each class into its own folder, or give images with labels.",
        )


def match_classes(bank: ImageSet, queries: ImageSet) -> ImageSet:
    """The queries whose class is in the bank, numbered as there. Raises `DataError` if there are none."""
    if queries.classes == bank.classes:
        return queries
    numbers = {name: number for number, name in enumerate(bank.classes)}
    table = torch.tensor([numbers.get(name, -1) for name in queries.classes])
    labels = torch.where(queries.labels >= 0, table[queries.labels], -1)
    known = (labels >= 0).nonzero()[:, 0]
    if not len(known):
        raise DataError(
            "The images to classify have no class in common with the bank.",
            f"Bank: {', '.join(bank.classes[:5])}; to classify: {', '.join(queries.classes[:5])}.",
            "Use the same class folder names in both.",
        )
    chosen = queries.subset(known)
    return dataclasses.replace(chosen, labels=labels[known], classes=bank.classes)
