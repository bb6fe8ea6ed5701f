"""Views by albumentations (2.0.8, MIT) on OpenCV, which lightly-train uses, too: written here, with MoCo v2's numbers.

Its crops are bilinear, not antialiased, as it makes them by default: that is less work than the other ways do.
"""

from collections.abc import Callable
from pathlib import Path

import albumentations
import cv2
import numpy as np
import numpy.typing as npt
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from peer_ways.turns import Work, serve
from peer_ways.views_alone import alone, viewed

Pixels = npt.NDArray[np.uint8]  # (height, width, 3)


def pixels(file: Path) -> Pixels:
    """An image file decoded by OpenCV."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
    assert image is not None, file
    return image.astype(np.uint8, copy=False)


def moco_views(size: int) -> Callable[[Pixels], tuple[Tensor, Tensor]]:
    """What makes two views (3, size, size) of an image."""
    view = albumentations.Compose(
        [
            albumentations.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
            albumentations.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            albumentations.ToGray(p=0.2),
            albumentations.GaussianBlur(sigma_limit=(0.1, 2.0), p=0.5),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Normalize(),
            ToTensorV2(),
        ]
    )
    return lambda image: (view(image=image)["image"], view(image=image)["image"])


def start(work: Work) -> Callable[[int], float]:
    """Batches of them."""
    cv2.setNumThreads(1)
    return alone(work, viewed(work, pixels, moco_views(work.size)))


if __name__ == "__main__":
    serve(start, "albumentations", "opencv-python-headless", "torch")
