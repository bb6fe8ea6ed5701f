"""Gaussian blur of many images at once, each with its own sigma, as sums of shifted images.

At usual sigmas (up to 2 pixels of 224) a kernel has few taps, and adding shifted images is as fast as a convolution or
a product with a banded matrix. Products and sums round separately, so the bits of an image do not depend on the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def kernel_radii(sigmas: Tensor) -> Tensor:
    """The radius of each kernel in pixels: 3 sigma, rounded (n,); under 0.3% of the mass lies beyond."""
    return torch.round(3 * sigmas).to(torch.int64)


def half_kernels(sigmas: Tensor, limit: int) -> Tensor:
    """Half of each normalised kernel: (n, reach + 1), the centre first, zeros beyond the kernel's own radius.

    The reach is the largest radius, at most `limit`: only s - 1 pixels of an image of s can be reflected.
    """
    distance = torch.arange(limit + 1, device=sigmas.device)  # independent of the batch, as are the bits of sums
    bells = torch.exp(-0.5 * (distance / sigmas.to(torch.float64).clamp_min(1e-3)[:, None]) ** 2)
    bells = bells * (distance <= kernel_radii(sigmas)[:, None])
    reach = int(kernel_radii(sigmas).max())
    return (bells / (2 * bells.sum(1, keepdim=True) - bells[:, :1])).float()[:, : reach + 1]


def gaussian_blur_(images: Tensor, kernels: Tensor) -> None:
    """Blurs float images (n, 3, s, s) in place with the kernels of `half_kernels` (n, reach + 1), reach < s.

    Borders are reflected, as in torchvision's `gaussian_blur`, whose kernel size is 2 x radius + 1.
    """
    count = len(images)
    reach = kernels.shape[1] - 1
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    width = padded.shape[-1]
    flat = padded.view(count, -1)
    for step in (width, 1):
        flat = symmetric_convolution(flat, kernels, step)
    images.copy_(flat.as_strided(images.shape, (flat.stride(0), width * width, width, 1)))


def symmetric_convolution(flat: Tensor, kernels: Tensor, step: int) -> Tensor:
    """The weighted sum of `flat` (n, L) and itself shifted by multiples of `step` to both sides: (n, L - 2 reach step).

    Rows are not separated: sums across their ends lie in the padding and are not used.
    """
    reach = kernels.shape[1] - 1
    length = flat.shape[1] - 2 * reach * step
    weights = torch.split(kernels, 1, 1)
    total = flat.narrow(1, reach * step, length) * weights[0]
    pair = torch.empty_like(total)
    for away in range(1, reach + 1):
        before, behind = flat.narrow(1, (reach - away) * step, length), flat.narrow(1, (reach + away) * step, length)
        total.add_(torch.add(before, behind, out=pair).mul_(weights[away]))
    return total
