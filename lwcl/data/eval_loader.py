"""Batches for judging: the central square of every image, in order."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.decode import center_crop
from lwcl.data.workers import load_in_workers
from lwcl.methods.method import Batch
from lwcl.models.loaded import InputSpec
from lwcl.system.compute import Compute


class CenterCropDataset(Dataset[tuple[Tensor, list[BrokenImage]]]):
    """Item i: the judging view of image i, uint8 (3, size, size), and the broken images met."""

    def __init__(self, images: ImageSet, takes: InputSpec) -> None:
        self.images, self.takes = images, takes

    def __getitem__(self, index: int) -> tuple[Tensor, list[BrokenImage]]:
        image, broken = self.images.good_image(index, round(self.takes.size / self.takes.crop_pct))
        view = center_crop(image, self.takes.size, crop_pct=self.takes.crop_pct)
        return torch.from_numpy(view.copy()).permute(2, 0, 1), broken


def center_crop_batches(
    images: ImageSet, takes: InputSpec, *, batch_size: int, workers: int, broken: Callable[[BrokenImage], None]
) -> Iterator[Tensor]:
    """The judging views of all images in order, in batches of uint8 (B, 3, size, size)."""
    batches = torch.split(torch.arange(len(images)), batch_size)
    for items in load_in_workers(CenterCropDataset(images, takes), [batch.tolist() for batch in batches], workers):
        for _, bad in items:
            for each in bad:
                broken(each)
        yield torch.stack([pixels for pixels, _ in items])


def eval_batches(
    pixels: Iterator[Tensor] | Sequence[Tensor], labels: Tensor, takes: InputSpec, compute: Compute
) -> Iterator[Batch]:
    """Batches for judging from uint8 pixels in the order of `labels` (N,)."""
    done = 0
    for part in pixels:
        index = torch.arange(done, done + len(part))
        done += len(part)
        view = normalise_images(
            part.to(compute.device, non_blocking=True),
            mean=takes.mean,
            std=takes.std,
            channels_last=compute.channels_last,
        )
        yield Batch((view,), index, labels[index])
