"""MoCo v2 as its papers' code has it: Pillow and torchvision v1 transforms, float32, the queue cloned."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision import transforms

from peer_ways.turns import Work, random_batches, serve, timed
from peer_ways.views_alone import rgb, viewed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIM = 128
View = Callable[[Image.Image], Tensor]


def moco_view(size: int) -> View:
    """What makes a view (3, size, size) of an image."""
    blur = transforms.RandomApply([lambda x: x.filter(ImageFilter.GaussianBlur(np.random.uniform(0.1, 2)))], 0.5)  # noqa: NPY002
    view: View = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            blur,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return view


def moco_views(size: int) -> Callable[[Image.Image], tuple[Tensor, Tensor]]:
    """What makes two views (3, size, size) of an image."""
    view = moco_view(size)
    return lambda image: (view(image), view(image))


def backbone(arch: str, size: int) -> nn.Module:
    """timm's model without a classifier; a transformer needs the image size."""
    arguments: dict[str, Any] = {"img_size": size} if arch.startswith(("vit", "deit")) else {}
    body: nn.Module = timm.create_model(arch, num_classes=0, **arguments)
    return body


def width_of(body: nn.Module) -> int:
    """The width of a timm model's features."""
    width: Any = body.head_hidden_size
    return int(width)


def moco_step(body: nn.Module, batch: int, queue_size: int) -> Callable[[Tensor, Tensor], None]:
    """A training of `body`: gives what does a step on two views (batch, 3, H, W) each."""
    width = width_of(body)
    query = nn.Sequential(body, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, DIM))
    key = copy.deepcopy(query).requires_grad_(False)
    optimizer = torch.optim.SGD(query.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    queue, state = F.normalize(torch.randn(DIM, queue_size), dim=0), {"at": 0}

    def step(first: Tensor, second: Tensor) -> None:
        q = F.normalize(query(first), dim=1)
        with torch.no_grad():
            for mine, theirs in zip(key.parameters(), query.parameters(), strict=True):
                mine.data = mine.data * 0.999 + theirs.data * 0.001
            k = F.normalize(key(second), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().detach()], 1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        queue[:, state["at"] : state["at"] + batch] = k.T
        state["at"] = (state["at"] + batch) % queue_size

    return step


def start(work: Work) -> Callable[[int], float]:
    """The training from image files, by worker processes."""
    pairs = viewed(work, rgb, moco_views(work.size))
    step = moco_step(backbone(work.arch, work.size), work.batch, work.queue)

    def steps(count: int) -> None:
        for first, second in random_batches(pairs, work, count):
            step(first, second)

    return timed(steps)


if __name__ == "__main__":
    serve(start, "torch", "torchvision", "timm")
