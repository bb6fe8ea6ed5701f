"""Multi-crop: local crops of an image beside its two global views (SwAV, arXiv 2006.09882)."""

from collections.abc import Sequence

from lwcl.methods.lazy_imports import Tensor, torch
from lwcl.methods.method import Method, ViewSpec
from lwcl.settings import setting


class MultiCrop(Method):
    """Settings of a method that can take local crops: small views of small parts, which are never keys or targets.

    The defaults are those of SSLight (arXiv 2210.02808) for small models: a boundary of 0.3 between local and global
    crops (SwAV: 0.14, DINO: 0.4), larger local crops (SwAV: 96 of 224), and most of the weight on them.
    """

    local_crops: int = setting(
        0, "small crops of each image as further queries", at_least=0, at_most=64, group="Method"
    )
    local_size: float = setting(
        0.571, "side of a local crop relative to a view's (SSLight: 128 of 224)", above=0, at_most=1, group="Method"
    )
    local_scale: float = setting(
        0.3, "largest area of a local crop and smallest of a global one (SSLight: 0.3)", at_least=0.05, at_most=1,
        group="Method",
    )  # fmt: skip
    local_weight: float = setting(
        0.6, "weight of the local crops in the loss (SSLight: 0.6)", at_least=0, at_most=1, group="Method"
    )

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """Two global views, by the run's crop scale; with local crops, both groups by `local_scale`."""
        if not self.local_crops:
            return (ViewSpec(count=2),)
        local = ViewSpec(count=self.local_crops, size=self.local_size, crop_scale=(0.05, self.local_scale))
        return ViewSpec(count=2, crop_scale=(self.local_scale, 1.0)), local

    def global_and_local(self, views: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The global views and the local crops, (B, 3, H, W) each; there may be none of the latter."""
        return tuple(views[:2]), tuple(views[2:])

    def weigh(self, global_loss: Tensor, local_losses: Sequence[Tensor]) -> Tensor:
        """The loss () of the global views, mixed with the mean of those of the local crops, if there are any."""
        if not local_losses:
            return global_loss
        return (1 - self.local_weight) * global_loss + self.local_weight * torch.stack(list(local_losses)).mean()
