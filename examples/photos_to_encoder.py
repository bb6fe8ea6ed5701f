"""From a folder of photos, without labels, to an encoder that plain timm loads.

    python examples/photos_to_encoder.py photos/ --arch mobilenetv3_large_100 --out runs/photos

The same training on the command line: lwcl pretrain --data photos/ --arch mobilenetv3_large_100 --out runs/photos
"""

import argparse
from pathlib import Path

import timm
import torch

from lwcl.commands import train
from lwcl.config.plan import plan_pretrain


def main() -> None:
    """Trains on the folder, then shows what timm makes of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--arch", default="mobilenetv3_large_100", help="any timm model")
    parser.add_argument("--out", default="runs/photos", help="folder of the run")
    parser.add_argument("--epochs", help="passes over the photos; default: from their number")
    args = parser.parse_args()

    # All other settings come from the recipe and the data, as on the command line.
    plan = plan_pretrain({"data": [args.photos], "arch": args.arch, "out": args.out, "epochs": args.epochs})
    if code := train.train_run(plan):
        raise SystemExit(code)

    # From here on only timm is needed.
    model = timm.create_model(f"local-dir:{Path(args.out) / 'export'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    with torch.inference_mode():
        features = model(torch.zeros(1, *config["input_size"]))
    print(f"{args.arch} takes images of {config['input_size']} and gives {features.shape[1]} features.")


if __name__ == "__main__":
    main()
