"""SimCLR, MoCo, FastSiam, DINO and SwAV by the parts of lightly (MIT), set as in its examples, with timm's backbone.

The examples are `examples/pytorch/NAME.py`: their heads, losses, optimizers, batches and constant learning rates are
kept; ResNet-18 of torchvision becomes timm's, and their views of 32 px (of DINO and SwAV 224 and 96 px) those of the
task's size, local crops in the same proportion.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightly.data import LightlyDataset
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules import (
    DINOProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
    SimSiamPredictionHead,
    SimSiamProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform, FastSiamTransform, MoCoV2Transform, SimCLRTransform, SwaVTransform
from torch import Tensor, nn

from peer_ways.budget import Marks, endless, told
from peer_ways.papers import backbone, width_of

HIDDEN, DIM = 512, 128
LOCAL = 96 / 224  # side of a local crop relative to a global one's, in DINO's and SwAV's transforms
Views = list[Tensor]  # each (B, 3, H, W)
Example = tuple[
    nn.Module, Callable[[Views, int], Tensor], Callable[[], None]
]  # trained, loss by epoch, after the gradient


def nothing() -> None:
    """Some methods have nothing that follows."""


def simclr(body: nn.Module) -> Example:
    """Contrast within the batch."""
    model = nn.Sequential(body, SimCLRProjectionHead(width_of(body), HIDDEN, DIM))
    criterion = NTXentLoss()
    return model, lambda views, _: criterion(model(views[0]), model(views[1])), nothing


def moco(body: nn.Module) -> Example:
    """Contrast with the keys of a momentum encoder in a queue."""
    model = nn.Sequential(body, MoCoProjectionHead(width_of(body), HIDDEN, DIM))
    key, criterion = copy.deepcopy(model), NTXentLoss(memory_bank_size=(4096, DIM))
    deactivate_requires_grad(key)

    def loss(views: Views, _: int) -> Tensor:
        update_momentum(model, key, m=0.99)
        found: Tensor = criterion(model(views[0]), key(views[1]).detach())
        return found

    return model, loss, nothing


def fastsiam(body: nn.Module) -> Example:
    """Each of four views predicts the mean of the other three."""
    model = nn.Sequential(body, SimSiamProjectionHead(width_of(body), HIDDEN, DIM))
    predict, criterion = SimSiamPredictionHead(DIM, 64, DIM), NegativeCosineSimilarity()

    def loss(views: Views, _: int) -> Tensor:
        z = torch.stack([model(view) for view in views])
        others = (z.sum(0) - z).detach() / (len(views) - 1)
        return torch.stack([criterion(predict(one), other) for one, other in zip(z, others, strict=True)]).mean()

    return nn.ModuleList([model, predict]), loss, nothing


def dino(body: nn.Module) -> Example:
    """Self-distillation with local crops."""
    model = nn.Sequential(body, DINOProjectionHead(width_of(body), HIDDEN, 64, 2048, freeze_last_layer=1))
    teacher = nn.Sequential(copy.deepcopy(body), DINOProjectionHead(width_of(body), HIDDEN, 64, 2048))
    deactivate_requires_grad(teacher)
    criterion = DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)
    head: Any = model[1]
    reached = {"epoch": 0}

    def loss(views: Views, epoch: int) -> Tensor:
        update_momentum(model, teacher, m=0.99)
        reached["epoch"] = epoch
        found: Tensor = criterion([teacher(view) for view in views[:2]], [model(view) for view in views], epoch=epoch)
        return found

    return model, loss, lambda: head.cancel_last_layer_gradients(current_epoch=reached["epoch"])


def swav(body: nn.Module) -> Example:
    """Clusters with local crops."""
    model, prototypes = nn.Sequential(body, SwaVProjectionHead(width_of(body), HIDDEN, DIM)), SwaVPrototypes(DIM, 512)
    criterion = SwaVLoss()

    def loss(views: Views, _: int) -> Tensor:
        prototypes.normalize()
        found = [prototypes(F.normalize(model(view), dim=1)) for view in views]
        total: Tensor = criterion(found[:2], found[2:])
        return total

    return nn.ModuleList([model, prototypes]), loss, nothing


#: The method, its views of a size, its optimizer and the batch of its example.
EXAMPLES: dict[str, tuple[Callable[[nn.Module], Example], Callable[[int], Any], str, int]] = {
    "simclr": (simclr, lambda size: SimCLRTransform(input_size=size, gaussian_blur=0.0), "sgd", 256),
    "moco": (moco, lambda size: MoCoV2Transform(input_size=size), "sgd", 256),
    "fastsiam": (fastsiam, lambda size: FastSiamTransform(input_size=size), "sgd", 256),
    "dino": (dino, lambda size: DINOTransform(global_crop_size=size, local_crop_size=round(size * LOCAL)), "adam", 64),
    "swav": (swav, lambda size: SwaVTransform(crop_sizes=(size, round(size * LOCAL))), "adam", 128),
}


def main() -> None:
    """Trains until the last mark."""
    task = told()
    build, views_of, kind, own_batch = EXAMPLES[task.method]
    batch = task.batch or own_batch
    body = backbone(task.arch, task.size)
    trained, loss_of, after_backward = build(body)
    parameters = trained.parameters()
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.SGD(parameters, 0.06) if kind == "sgd" else torch.optim.Adam(parameters, 0.001)
    images = LightlyDataset(task.folder, transform=views_of(task.size))
    marks = Marks(task, batch)
    for epoch, views in endless(images, task, batch):
        loss_of(views, epoch).backward()  # type: ignore[no-untyped-call]
        after_backward()
        optimizer.step()
        optimizer.zero_grad()
        if marks.passed(body):
            return


if __name__ == "__main__":
    main()
