"""Device, precision and memory format of a command, and its command line."""

import shlex
import sys

import torch
from torch import nn

from lwcl.errors import UsageError
from lwcl.system.compute import Compute

MIN_CONVOLUTIONS = 4  # fewer: a transformer with a patch embedding, which channels_last does not speed up


def resolve_device(name: str) -> torch.device:
    """The device that `--device` names; `auto`: an accelerator if available. Raises `UsageError` if there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    if name != "cpu" and (accelerator is None or accelerator.type != name):
        present = f"only {accelerator.type}" if accelerator else "no accelerator that torch can use"
        raise UsageError(
            f"--device {name}: not available.",
            f"This machine has {present}.",
            "Leave --device out, or give --device cpu.",
        )
    return torch.device(name)


def choose_compute(net: nn.Module, device_name: str, precision: str) -> Compute:
    """How to run a net: `auto` is bfloat16 on CUDA and float32 elsewhere; channels_last for convolutional nets."""
    device = resolve_device(device_name)
    half = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    convolutions = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    return Compute(device, torch.bfloat16 if half else None, convolutions >= MIN_CONVOLUTIONS)


def set_matmul_precision(compute: Compute) -> None:
    """Sets torch's global switches: on CUDA, TF32 for float32 products, unless everything is to be float32."""
    if compute.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if compute.autocast else "highest")
        torch.backends.cudnn.allow_tf32 = compute.autocast is not None


def current_command() -> str:
    """This command as a shell command line."""
    return shlex.join(["lwcl", *sys.argv[1:]])
