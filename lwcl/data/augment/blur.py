"""Gaussian blur for many images at once, each with its own sigma, as sums of shifted images.

At the sigmas of a view (up to 2 pixels of 224) a kernel has few taps, and adding shifted images is no slower than a
convolution or a product with a banded matrix. Products and sums round separately, so an image's result is the same bits
in whatever company.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def kernel_radii(sigmas: Tensor) -> Tensor:
    """The radius of each kernel in pixels: 3 sigma, rounded (n,); what lies beyond is under 0.3% and is left out."""
    return torch.round(3 * sigmas).to(torch.int64)


def half_kernels(sigmas: Tensor, limit: int) -> Tensor:
    """One side of each normalised kernel: (n, reach + 1), the centre first, zeros beyond the kernel's own radius.

    The reach is the largest radius, but at most `limit`: a border of s pixels can reflect s - 1.
    """
    distance = torch.arange(limit + 1, device=sigmas.device)  # as long for any batch, so that sums have the same bits
    bells = torch.exp(-0.5 * (distance / sigmas.to(torch.float64).clamp_min(1e-3)[:, None]) ** 2)
    bells = bells * (distance <= kernel_radii(sigmas)[:, None])
    reach = int(kernel_radii(sigmas).max())
    return (bells / (2 * bells.sum(1, keepdim=True) - bells[:, :1])).float()[:, : reach + 1]


def gaussian_blur_(images: Tensor, kernels: Tensor) -> None:
    """Blurs float images (n, 3, s, s) in place with kernels whose `sides` are (n, reach + 1), reach < s.

    Borders are reflected, as torchvision's `gaussian_blur` does; its kernel size is 2 `radii` + 1.
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

    Rows run on into the next: what is summed across their ends lies in the padding, and is not read.
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
