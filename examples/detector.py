"""Train a torchvision detector on a backbone of lwcl: two steps on made boxes, to show how the parts fit.

    python examples/detector.py runs/mine/export

The backbone gives feature maps (`features_only=True`), a feature pyramid joins them, and Faster R-CNN does the rest.
Replace `made_batch` by your own images and boxes.
"""

import argparse
from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign


class PyramidBackbone(nn.Module):
    """Maps at three strides from a timm folder, joined by a feature pyramid of `out_channels` channels."""

    def __init__(self, folder: str, out_channels: int = 64) -> None:
        super().__init__()
        self.body: Any = timm.create_model(
            f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(-3, -2, -1)
        )
        self.pyramid = FeaturePyramidNetwork(self.body.feature_info.channels(), out_channels)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by level, the finest first."""
        maps = OrderedDict((str(level), found) for level, found in enumerate(self.body(images)))
        joined: dict[str, Tensor] = self.pyramid(maps)
        return joined


def build_detector(folder: str, classes: int, size: int) -> FasterRCNN:
    """Faster R-CNN for images of about `size` pixels; class 0 is the background."""
    backbone = PyramidBackbone(folder)
    config = backbone.body.pretrained_cfg
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(
        backbone,
        classes,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
        min_size=size,
        max_size=size,
    )


def made_batch(count: int, size: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Grey images with a bright square in each, and its box."""
    images, targets = [], []
    for number in range(count):
        left, top, side = 8 + 4 * number, 16, size // 3
        image = torch.full((3, size, size), 0.4)
        image[:, top : top + side, left : left + side] = 0.9
        images.append(image)
        box = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.tensor([1])})
    return images, targets


def main() -> None:
    """Takes two steps, then detects."""
    parser = argparse.ArgumentParser(description="Train a detector on a backbone of lwcl, two steps on made boxes.")
    parser.add_argument("folder", help="a timm folder, such as runs/mine/export")
    parser.add_argument("--size", type=int, default=128, help="pixels of an image")
    options = parser.parse_args()
    torch.manual_seed(0)
    detector = build_detector(options.folder, classes=2, size=options.size)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    images, targets = made_batch(4, options.size)
    detector.train()
    for step in range(2):
        losses = detector(images, targets)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}: loss {float(loss.detach()):.3f}")
    detector.eval()
    with torch.inference_mode():
        found = detector(images)
    print(f"boxes found in the first image: {len(found[0]['boxes'])}")


if __name__ == "__main__":
    main()
