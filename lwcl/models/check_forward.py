"""One forward pass as a check of the image size, before anything long starts: some architectures refuse some sizes."""

import torch

from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder
from lwcl.system.out_of_memory import is_out_of_memory


def check_forward(encoder: Encoder, size: int) -> None:
    """Raises `UsageError` unless the encoder (on the CPU) gives features of its width for an image of `size` pixels."""
    training = encoder.training
    try:
        with torch.no_grad():
            shape = tuple(encoder.eval().features(torch.zeros(1, 3, size, size)).shape)
        reason = "" if shape == (1, encoder.width) else f"Its features have shape {shape}, not (1, {encoder.width})."
    except Exception as error:  # timm's models raise errors of many classes for a size that they do not support
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    encoder.train(training)
    if reason:
        raise UsageError(
            f"{encoder.arch} does not support images of {size} px.",
            reason,
            "Give another --image-size, such as a multiple of 32, or the default of the architecture.",
        )
