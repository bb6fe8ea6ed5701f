"""A probe's modules: the classifier, and the net of an encoder and a classifier, in which nothing else may move."""

import hashlib

import torch
from torch import Tensor, nn

from lwcl.errors import TrainingDivergedError
from lwcl.losses import l2_normalise, upcast
from lwcl.metrics.linear import feature_statistics
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net


class LinearClassifier(nn.Module):
    """Logits (B, C) of features (B, width) in a form: raw, unit or standard. Always in float32.

    Weights start as N(0, 0.01), biases as 0 (MoCo, `main_lincls.py`).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, classes: int, form: str) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def standardise_by(self, rows: Tensor) -> None:
        """Takes the statistics of the training images' features (N, width)."""
        mean, deviation = feature_statistics(l2_normalise(rows))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, at least float32, whatever the encoder's precision."""
        with torch.autocast(features.device.type, enabled=False):
            rows = upcast(features) if self.form == "raw" else l2_normalise(features)
            rows = (rows - self.mean) / self.deviation if self.form == "standard" else rows
            logits: Tensor = self.linear(rows)
        return logits


class ProbeNet(Net):
    """An encoder and a classifier of its features. A frozen encoder has no gradient and stays in eval mode."""

    classifier: LinearClassifier

    def __init__(self, student: Encoder, classifier: LinearClassifier, *, frozen: bool) -> None:
        super().__init__(student, classifier=classifier)
        self.frozen = frozen
        student.backbone.requires_grad_(not frozen)
        student.head.requires_grad_(False)

    def train(self, mode: bool = True) -> "ProbeNet":
        """Train mode for what is trained; batch norm in it then uses the batch's statistics, in every epoch."""
        super().train(mode)
        if self.frozen:
            self.student.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        if not self.frozen:
            return self.logits(self.student.features(images))
        with torch.inference_mode():
            features = self.student.features(images)
        return self.logits(features.clone())  # autograd refuses to keep an inference tensor

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, width)."""
        found: Tensor = self.classifier(features)
        return found


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_weights_finite(name: str, encoder: Encoder) -> None:
    """Raises `TrainingDivergedError` where a weight or a statistic of the encoder is not finite."""
    for place, tensor in encoder.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise TrainingDivergedError(
                f"{name}: its weights are not finite, first in {place}.",
                "The file is damaged, or its training diverged.",
                "Train it again with a lower --lr.",
            )


def check_weights_unchanged(name: str, encoder: Encoder, before: str) -> None:
    """Raises `TrainingDivergedError` unless the encoder's weights still have the hash `before`: a probe must not
    change them."""
    if weights_hash(encoder) != before:
        raise TrainingDivergedError(
            f"{name}: its weights moved while a classifier was trained on it.",
            "A probe must leave them as they are, so its result is worth nothing.",
            "Please report this with the command that you gave.",
        )
