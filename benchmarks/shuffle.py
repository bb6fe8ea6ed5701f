"""How well a block shuffle mixes: the classes that meet in a batch of a set that lies sorted by class.

Claim: of the 7.76 bits of class entropy in a fully shuffled batch of 256 (a million images, 1,000 classes) blocks of
4,096 images leave 7.21, blocks of 1,024 6.29 and blocks of 64 5.80; docs/scale.md has the table. Nothing is random but
the seed, so the figures are the same on any machine. Classes: different ones in a batch; pairs: share of the pairs in a
batch that are of one class; neighbours: share of the images whose neighbour on the disk is in their batch.

    python benchmarks/shuffle.py [--images 1000000] [--classes 1000] [--batch 256] [--smoke]
"""

import argparse

import torch

from lwcl.data.order import epoch_order

BLOCKS = (1, 64, 1024, 4096)  # 1 is a full shuffle


def quality(images: int, classes: int, batch: int, block: int) -> dict[str, float]:
    """What the batches of an epoch hold, means over all of them."""
    order = epoch_order(images, 0, 0, block)[:]
    batches = order[: images // batch * batch].view(-1, batch)
    labels = batches * classes // images
    counts = torch.zeros(len(batches), classes).scatter_add_(1, labels, torch.ones(labels.shape))
    shares = counts / batch
    bits = -(shares * shares.clamp_min(1e-12).log2()).sum(1)
    same = (counts * (counts - 1)).sum(1) / (batch * (batch - 1))
    place = torch.full((images + 1,), -1)
    place[order] = torch.arange(images) // batch
    return {
        "block": block,
        "classes": float((counts > 0).sum(1).float().mean()),
        "bits": float(bits.mean()),
        "same": float(same.mean()),
        "neighbours": float((place[:-2] == place[1:-1]).float().mean()),
    }


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description="How well a block shuffle mixes.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--smoke", action="store_true", help="tiny")
    told = parser.parse_args()
    if told.smoke:
        told.images, told.classes, told.batch = 4000, 40, 16
    print("| `--shuffle-block` | classes | entropy, bits | pairs of one class, % | neighbours together, % |")
    print("|---|---|---|---|---|")
    for block in BLOCKS:
        found = quality(told.images, told.classes, told.batch, block)
        shares = f"{100 * found['same']:.2f} | {100 * found['neighbours']:.3f}"
        print(f"| {block:,} | {found['classes']:.1f} | {found['bits']:.2f} | {shares} |")


if __name__ == "__main__":
    main()
