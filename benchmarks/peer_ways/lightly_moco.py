"""MoCo v2 by the parts that lightly (MIT) documents in its MoCo example, with a backbone of timm."""

import copy
from collections.abc import Callable

import torch
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.moco_transform import MoCoV2Transform
from torch import nn

from peer_ways.papers import DIM, backbone, width_of
from peer_ways.turns import Work, random_batches, serve, timed


def start(work: Work) -> Callable[[int], float]:
    """The training from image files, by worker processes."""
    images = LightlyDataset(work.folder, transform=MoCoV2Transform(input_size=work.size))
    body = backbone(work.arch, work.size)
    width = width_of(body)
    query = nn.Sequential(body, MoCoProjectionHead(width, width, DIM))
    key = copy.deepcopy(query)
    deactivate_requires_grad(key)
    criterion = NTXentLoss(temperature=0.2, memory_bank_size=(work.queue, DIM))
    optimizer = torch.optim.SGD(query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

    def steps(count: int) -> None:
        for (first, second), _, _ in random_batches(images, work, count):
            update_momentum(query, key, m=0.999)
            loss = criterion(query(first), key(second).detach())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return timed(steps)


if __name__ == "__main__":
    serve(start, "lightly", "torch", "torchvision", "timm")
