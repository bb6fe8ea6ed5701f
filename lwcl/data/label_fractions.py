"""The labelled images of a linear probe, and stratified fractions of them (1% or 10% of the labels)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwcl.data.dataset import ImageSet
from lwcl.data.labelled import LabelledPair, open_labelled_pair
from lwcl.data.sources.splits import stratified_holdout
from lwcl.errors import DataError
from lwcl.formatting import first_names, plural

MAX_LISTED_NAMES = 5  # in an error message


def open_probe_pair(data: Sequence[str], val: Sequence[str], **how: Any) -> LabelledPair:
    """Labelled images to train a classifier on, and to test it on; what is left out is in the notes.

    Raises `DataError` if labels are missing, or test images have a class without a training image.
    """
    pair = open_labelled_pair(data, val, **how)
    if names := pair.unknown:
        raise DataError(
            f"No training images of {plural(len(names), 'class', 'classes')}: {first_names(names, MAX_LISTED_NAMES)}.",
            "A classifier cannot predict a class that it was not trained on.",
            "Use the same class folder names in both, or leave those images out with --known-classes.",
        )
    return pair


def sample_label_fraction(images: ImageSet, share: float, seed: int) -> Tensor:
    """Positions of this fraction of each class, chosen by a hash of (seed, name); smaller fractions are subsets.

    Raises `DataError` if a class would have no image.
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
            f"{100 * share:g}% of the labels leave {plural(len(scarce), 'class', 'classes')} without an image: "
            f"{first_names(scarce, MAX_LISTED_NAMES)}.",
            f"The smallest class has {plural(int(counts[counts > 0].min()), 'image')}.",
            f"Give at least {100 * least:.2g}%, or more images.",
        )
    return torch.from_numpy(stratified_holdout(images.names, images.labels.tolist(), share, seed)).nonzero()[:, 0]


def selection_mask(images: ImageSet, share: float, seed: int) -> Tensor:
    """Which images (N,) bool are held out for model selection: this fraction of each class with two or more images.

    Raises `DataError` if no class has two.
    """
    out = torch.from_numpy(stratified_holdout(images.names, images.labels.tolist(), share, seed))
    if not bool(out.any()):
        raise DataError(
            f"Each of the {len(images.classes)} classes has a single training image.",
            "Hyper-parameters are selected on a held-out part of these images.",
            "Give more images per class, or a protocol without selection, such as --protocol moco.",
        )
    return out
