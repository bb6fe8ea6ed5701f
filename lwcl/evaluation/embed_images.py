"""Features of the center crops of an image set, in its order."""

import torch
from torch import Tensor

from lwcl import engine
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.eval_loader import center_crop_batches, eval_batches
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.system.compute import Compute


class CroppedImages:
    """The center crops of an image set at one input size, decoded once and kept: uint8, for sets that fit in memory."""

    def __init__(self, images: ImageSet, input_spec: InputSpec, *, batch_size: int = 64, workers: int = 0) -> None:
        self.images, self.input_spec = images, input_spec
        self.broken: set[BrokenImage] = set()
        self.pixels = list(
            center_crop_batches(images, input_spec, batch_size=batch_size, workers=workers, broken=self.broken.add)
        )

    def normalised(self) -> list[Tensor]:
        """Batches of normalised images (B, 3, H, W) on the CPU."""
        compute = Compute(torch.device("cpu"))
        return [batch.views[0] for batch in eval_batches(self.pixels, self.images.labels, self.input_spec, compute)]

    def features(self, loaded: LoadedEncoder) -> Tensor:
        """An encoder's features (N, width) in float32 on the CPU."""
        compute = Compute(torch.device("cpu"))
        encoder = compute.place(loaded.encoder)
        batches = eval_batches(self.pixels, self.images.labels, self.input_spec, compute)
        return engine.extract_features(encoder, batches, compute, len(self.images))
