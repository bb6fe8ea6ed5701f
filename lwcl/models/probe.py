"""The modules of a probe: a linear classifier on an encoder whose weights must not change."""

import torch
from torch import Tensor, nn

from lwcl.errors import TrainingDivergedError
from lwcl.losses import l2_normalise, upcast
from lwcl.metrics.linear import feature_statistics
from lwcl.models.encoder import Encoder, weights_hash
from lwcl.models.net import Net


class LinearClassifier(nn.Module):
    """A linear layer on features (B, width) -> logits (B, C). Always in float32.

    `form` of the features: raw; unit: L2-normalised; standard: L2-normalised, then standardised. Weights start as
    N(0, 0.01), biases as 0 (MoCo, `main_lincls.py`).
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

    def fit_statistics(self, features: Tensor) -> None:
        """Standardises by the features (N, width) of the training images."""
        mean, deviation = feature_statistics(l2_normalise(features))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, width), at least float32 in any precision of the encoder."""
        with torch.autocast(features.device.type, enabled=False):
            rows = upcast(features) if self.form == "raw" else l2_normalise(features)
            rows = (rows - self.mean) / self.deviation if self.form == "standard" else rows
            logits: Tensor = self.linear(rows)
        return logits


class ProbeNet(Net):
    """An encoder and a linear classifier. A frozen encoder has no gradient and stays in eval mode."""

    def __init__(self, student: Encoder, classifier: LinearClassifier, *, frozen: bool) -> None:
        super().__init__(student)
        self.classifier, self.frozen = classifier, frozen
        student.backbone.requires_grad_(not frozen)
        student.head.requires_grad_(False)

    def train(self, mode: bool = True) -> "ProbeNet":
        """Train mode for what is trained: a fine-tuned encoder uses the batch's statistics in its batch norm."""
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
        logits: Tensor = self.classifier(features)
        return logits


def check_weights_finite(name: str, encoder: Encoder) -> None:
    """Raises `TrainingDivergedError` if a weight or a statistic of the encoder is not finite."""
    for place, tensor in encoder.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise TrainingDivergedError(
                f"{name}: the weights in {place} are not finite.",
                "The file is damaged, or training diverged.",
                "Train again with a lower --lr.",
            )


def check_weights_unchanged(name: str, encoder: Encoder, before: str) -> None:
    """Raises `TrainingDivergedError` unless the encoder's weights still have the hash `before`."""
    if weights_hash(encoder) != before:
        raise TrainingDivergedError(
            f"{name}: the frozen encoder's weights changed during the probe.",
            "The result of the probe is invalid.",
            "This is a bug: please report it with the command you ran.",
        )
