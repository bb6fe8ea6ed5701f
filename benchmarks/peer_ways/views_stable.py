"""Views by stable-pretraining (MIT): its transforms for a CPU with MoCo v2's numbers, on files by its data set.

They are torchvision's v2 on Pillow images, and note in each sample what they drew.
"""

from collections.abc import Callable

from stable_pretraining.data import FromTorchDataset, static, transforms

from peer_ways.turns import Work, serve
from peer_ways.views_alone import alone, rgb, viewed


def moco_view(size: int) -> transforms.Compose:
    """What makes a view (3, size, size) of a sample's image."""
    return transforms.Compose(
        transforms.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        transforms.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.PILGaussianBlur(p=0.5),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ToImage(**static.ImageNet),
    )


def start(work: Work) -> Callable[[int], float]:
    """Batches of them."""
    views = transforms.MultiViewTransform([moco_view(work.size), moco_view(work.size)])
    images = viewed(work, rgb, lambda image: (image,))
    return alone(work, FromTorchDataset(images, names=["image"], transform=views))


if __name__ == "__main__":
    serve(start, "stable-pretraining", "torch", "torchvision", "pillow")
