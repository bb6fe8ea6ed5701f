"""Finds the images in a folder that are most similar to one image, with the encoder of a run. Needs timm, not lwcl.

python examples/nearest_images.py runs/photos/export photos/ photos/cat.jpg --count 5
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from PIL import Image

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


def embed_images(model: torch.nn.Module, paths: list[Path], batch_size: int = 64) -> Iterator[torch.Tensor]:
    """L2-normalised features (B, width), a batch at a time."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    for start in range(0, len(paths), batch_size):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
        yield torch.nn.functional.normalize(model(torch.stack([transform(image) for image in images])), dim=1)


@torch.inference_mode()
def main() -> None:
    """Prints the nearest images with their cosines, nearest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="the export folder of a run")
    parser.add_argument("folder", type=Path, help="images to search")
    parser.add_argument("image", type=Path, help="the query image")
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()

    model = timm.create_model(f"local-dir:{args.export}", pretrained=True).eval()
    paths = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in ENDINGS)
    cosines = torch.cat(list(embed_images(model, paths))) @ next(embed_images(model, [args.image]))[0]
    for place in cosines.argsort(descending=True)[: args.count].tolist():
        print(f"{cosines[place]:.3f}  {paths[place]}")


if __name__ == "__main__":
    main()
