"""Counter-based random numbers: each is a hash of where it is used, never of what was sampled before.

SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with Stafford's
variant 13 of the mixing constants) on int64 tensors, whose products wrap like unsigned ones.
"""

import torch
from torch import Tensor

GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
VIEW_STREAM, ORDER_STREAM, STEP_STREAM, BLOCK_STREAM, CLIP_STREAM = range(5)  # purposes, which never share numbers


def wrap_int64(value: int) -> int:
    """The int64 with the low 64 bits of `value`."""
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def logical_right_shift(bits: Tensor, count: int) -> Tensor:
    """`bits` >> `count` as unsigned numbers: zeros come in from the left."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def splitmix64(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64, a bijection of 64-bit numbers, elementwise on int64."""
    bits = (bits ^ logical_right_shift(bits, 30)) * wrap_int64(MIX_1)
    bits = (bits ^ logical_right_shift(bits, 27)) * wrap_int64(MIX_2)
    return bits ^ logical_right_shift(bits, 31)


def child_key(key: Tensor, number: Tensor | int) -> Tensor:
    """The key of the `number`-th stream (from 0) below a key; broadcasts."""
    steps = number + 1 if isinstance(number, Tensor) else torch.tensor(wrap_int64(number + 1), device=key.device)
    return splitmix64(key + steps * wrap_int64(GAMMA))


def stream_key(*path: int) -> Tensor:
    """The int64 key, of shape (), at the end of a path of numbers such as (seed, purpose, epoch)."""
    key = torch.zeros((), dtype=torch.int64)
    for number in path:
        key = child_key(key, number)
    return key


def image_uniforms(seed: int, epoch: int, view: int, index: Tensor, count: int) -> Tensor:
    """`count` numbers for each image: float64 (B, count), uniform in [0, 1), on the device of `index`.

    They depend only on seed, epoch, view and the position `index` (B,) of an image in the data set, not on its batch.
    """
    keys = child_key(stream_key(seed, VIEW_STREAM, epoch, view).to(index.device), index.to(torch.int64))
    columns = torch.arange(count, device=index.device)
    return logical_right_shift(child_key(keys[:, None], columns), 11).to(torch.float64) * 2.0**-53


def clip_uniforms(seed: int, epoch: int, view: int, index: Tensor) -> Tensor:
    """A number for each video, float64 (B,), uniform in [0, 1); as `image_uniforms`, and independent of these."""
    keys = child_key(stream_key(seed, CLIP_STREAM, epoch, view).to(index.device), index.to(torch.int64))
    return logical_right_shift(keys, 11).to(torch.float64) * 2.0**-53


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of `n` images in an epoch: int64 (n,), a permutation of 0 .. n - 1."""
    return permutation(n, seed, ORDER_STREAM, epoch)


def permutation(n: int, *path: int) -> Tensor:
    """A permutation of 0 .. n - 1, int64 (n,), that follows from a path of numbers such as (seed, purpose, epoch)."""
    return torch.argsort(child_key(stream_key(*path), torch.arange(n)), stable=True)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed, in [0, 2^63), for `torch.manual_seed` before a step: dropout then depends on (seed, step, rank) alone.

    `rank` is the number of the process, of several that drop different units.
    """
    return int(logical_right_shift(stream_key(seed, STEP_STREAM, step, *([rank] if rank else [])), 1))
