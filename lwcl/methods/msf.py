"""MSF (Koohpayegani et al., arXiv 2105.07269): the mean shift of an image towards its nearest neighbours."""

from lwcl.methods.lazy_imports import distributed, losses, torch
from lwcl.methods.method import Batch, Loss, method
from lwcl.methods.momentum_target import MomentumTarget, MomentumTargetNet
from lwcl.settings import setting


@method("pretrain", "msf")
class MeanShift(MomentumTarget):
    """Predict the embeddings of the nearest neighbours of the momentum encoder's embedding; no negatives.

    The embedding itself is the nearest neighbour, so that with one neighbour this is BYOL.
    """

    dim: int = setting(128, "width of the embedding", at_least=2, group="Method")
    neighbours: int = setting(10, "number of nearest embeddings to predict", at_least=1, group="Method")

    def head(self, width: int, teacher_dim: int = 0) -> tuple[str, ...]:
        """The projector."""
        return self.layers(width, self.dim)

    def loss(self, net: MomentumTargetNet, batch: Batch, epoch: float) -> Loss:
        """Mean squared distance of the prediction to the `neighbours` rows nearest to the target.

        Rows are the targets of this batch, over all processes, and the memory. `agreement`: mean cosine with the
        image's own target.
        """
        predictions, targets = self.predictions_and_targets(net, batch)
        rows = torch.cat([distributed.all_gather_rows(targets), net.anchors.rows().to(targets.dtype)])
        nearest = losses.cosine_similarities(targets, rows).topk(min(self.neighbours, len(rows)), dim=1).indices
        total = 2 - 2 * losses.cosine_similarities(predictions, rows).gather(1, nearest).mean()
        net.anchors.push(targets)
        agreement = 1 - losses.alignment(predictions.detach(), targets) / 2
        return Loss(total, {"loss": total.detach(), "agreement": agreement}, (predictions.detach(), targets))
