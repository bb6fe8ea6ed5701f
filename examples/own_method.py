"""A training method of one's own in one file: SimCLR (Chen et al., arXiv 2002.05709), trained like those of lwcl.

python examples/own_method.py --data photos/ --arch resnet18

Everything else is there: help for its settings, resuming, reports. In lwcl/methods/ the class alone would do.
"""

import sys

import torch
import torch.nn.functional as F

from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.models.encoder import Encoder
from lwcl.models.net import Net
from lwcl.settings import setting


@method("pretrain", "simclr")
class SimCLR(Method):
    """Contrast with the other images of the batch: no queue, no key encoder."""

    temperature: float = setting(0.5, "softmax temperature of the contrast", above=0, group="Method")
    dim: int = setting(128, "width of the embedding that is contrasted", at_least=2, group="Method")

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """A hidden layer as wide as the backbone, then the embedding."""
        return width, self.dim

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """Nothing but the student has state."""
        return Net(student=student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """NT-Xent (eq. 1): of 2 B - 1 other views, find the one of the same image."""
        first, second = (net.student(view) for view in batch.views)
        both = torch.cat([first, second])
        similarity = (both @ both.T / self.temperature).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(both), device=both.device).roll(len(first))
        total = F.cross_entropy(similarity, partner)
        found = (similarity.argmax(1) == partner).float().mean()
        return Loss(total, {"loss": total.detach(), "found": found}, (first.detach(), second.detach()))


if __name__ == "__main__":
    from lwcl.cli.main import main  # after the class, so that its options are there

    sys.exit(main(["pretrain", "--method", "simclr", *sys.argv[1:]]))
