"""The labelled images of a probe: checked, and shares of them that hold the same part of every class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.labelled import open_labelled_pair
from lwcl.data.sources.splits import stratified_holdout
from lwcl.errors import DataError

MAX_LISTED_NAMES = 5  # names in an error


def open_probe_pair(
    data: Sequence[str], val: Sequence[str], *, seed: int, download: bool = False
) -> tuple[ImageSet, ImageSet]:
    """Labelled images to train a classifier on, and to judge it by; those without a label are left out.

    Raises `DataError` where labels are missing, or the second have a class that none of the first has.
    """
    bank, queries = (
        each.subset((each.labels >= 0).nonzero()[:, 0])
        for each in open_labelled_pair(data, val, seed=seed, download=download)
    )
    known = {bank.classes[label] for label in set(bank.labels.tolist())}
    asked = {queries.classes[label] for label in set(queries.labels.tolist())}
    if val:  # a pair holds only what both sides have
        named = open_images(val, "val", download=download)
        asked = {named.classes[label] for label in set(named.labels.tolist()) - {-1}}
    if asked - known:
        names = sorted(asked - known)
        raise DataError(
            f"{len(names)} classes of the images to judge by are not among those to train on: {shortened_list(names)}.",
            "A classifier cannot name a class that it has not seen.",
            "Name the class folders alike, or leave those images out.",
        )
    return bank, queries


def shortened_list(names: Sequence[str]) -> str:
    """The first names, and that there are more."""
    return ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")


def sample_label_fraction(images: ImageSet, share: float, seed: int) -> Tensor:
    """Positions of this share of each class's images, chosen by a hash of (seed, name): a smaller share is within.

    Raises `DataError` where a class would be left without an image.
    """
    if share >= 1:
        return torch.arange(len(images))
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    scarce = [
        name for name, count in zip(images.classes, counts.tolist(), strict=True) if count > 0 and share * count < 0.5
    ]
    if scarce:
        least = 0.5 / int(counts[counts > 0].min())
        raise DataError(
            f"{100 * share:g}% of the labels leave no image of {len(scarce)} classes: {shortened_list(scarce)}.",
            f"The smallest class has {int(counts[counts > 0].min())} images.",
            f"Give a share of {100 * least:.2g}% or more, or more images.",
        )
    return torch.from_numpy(stratified_holdout(images.names, images.labels.tolist(), share, seed)).nonzero()[:, 0]


def selection_mask(images: ImageSet, share: float, seed: int) -> Tensor:
    """Which images (N,) bool are held out to choose settings on: this share of each class that has two or more.

    Raises `DataError` where no class has two.
    """
    out = torch.from_numpy(stratified_holdout(images.names, images.labels.tolist(), share, seed))
    if not bool(out.any()):
        raise DataError(
            f"Each of the {len(images.classes)} classes has one image to train on.",
            "Settings are chosen on a part of these images, and a class of one has no part to spare.",
            "Give more images of each class, or a protocol that chooses nothing, such as --protocol moco.",
        )
    return out
