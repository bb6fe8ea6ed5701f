"""Batches for evaluation: the center crop of every image, in order."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import BrokenImage, ImageSet, as_input
from lwcl.data.decode import center_crop
from lwcl.data.frames import Frames
from lwcl.data.workers import load_in_workers
from lwcl.methods.method import Batch
from lwcl.models.loaded import InputSpec
from lwcl.system.compute import Compute


class CenterCropDataset(Dataset[tuple[Tensor, list[BrokenImage]]]):
    """Item i: the center crop of image i, (C, size, size), and the broken images on the way.

    Of a video, that of the clip in its middle, (T, C, size, size).
    """

    def __init__(self, images: ImageSet, input_spec: InputSpec) -> None:
        self.images, self.input_spec = as_input(images, input_spec.pixel_format), input_spec

    def __getitem__(self, index: int) -> tuple[Tensor, list[BrokenImage]]:
        size, crop_pct = self.input_spec.size, self.input_spec.crop_pct
        image, broken = self.images.readable_image(index, round(size / crop_pct))
        image = image.clip(self.images.pixel_format.frames) if isinstance(image, Frames) else image
        view = center_crop(image, size, crop_pct=crop_pct)
        return torch.from_numpy(view.copy()).movedim(-1, -3), broken


def center_crop_batches(
    images: ImageSet,
    input_spec: InputSpec,
    *,
    batch_size: int,
    workers: int,
    broken: Callable[[BrokenImage], None],
    places: Tensor | None = None,
) -> Iterator[Tensor]:
    """The center crops of all images in order, or of those at `places`, in batches of (B, C, size, size)."""
    places = torch.arange(len(images)) if places is None else places
    batches = torch.split(places, batch_size) if len(places) else ()
    for items in load_in_workers(CenterCropDataset(images, input_spec), [batch.tolist() for batch in batches], workers):
        for _, bad in items:
            for image in bad:
                broken(image)
        yield torch.stack([pixels for pixels, _ in items])


def eval_batches(
    pixels: Iterator[Tensor] | Sequence[Tensor], labels: Tensor, input_spec: InputSpec, compute: Compute
) -> Iterator[Batch]:
    """Batches for evaluation from pixels in the order of `labels` (N,)."""
    done = 0
    for crops in pixels:
        index = torch.arange(done, done + len(crops))
        done += len(crops)
        view = normalise_images(
            crops.to(compute.device, non_blocking=True),
            **input_spec.normalisation,
            channels_last=compute.channels_last,
        )
        yield Batch((view,), index, labels[index])
