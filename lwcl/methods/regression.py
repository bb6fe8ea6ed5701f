"""Regression of the teacher's features, the baselines Reg and Reg-BN of CompRess (arXiv 2010.14713)."""

from lwcl.methods._torch import Encoder, Net, losses, nets
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


@method("compress", "regression")
class Regression(Method):
    """Put each image where the teacher puts it, through one linear layer."""

    views = 1
    taught = "features"

    batch_norm: bool = setting(
        False,
        "batch norm without scale and shift on both sides (Reg-BN) instead of unit length; published for a ResNet-18: "
        "58.2 against 52.2 linear top-1",
        group="Method",
    )

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """One linear layer to the teacher's width."""
        return (taught,)

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student alone."""
        return nets.Net(student=student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Mean squared distance to the teacher: of unit vectors, or with `batch_norm` of standardised dimensions.

        Both lie in [0, 4]. `agreement` is the mean cosine with the teacher.
        """
        output, taught = net.student.head(net.student.features(batch.views[0])), batch.taught[0]
        student, teacher = losses.l2_normalise(output), losses.l2_normalise(taught)
        distance = losses.alignment(student, teacher)
        total = losses.standardised_mse(output, taught) if self.batch_norm else distance
        parts = {"loss": total.detach(), "agreement": 1 - distance.detach() / 2}
        return Loss(total, parts, (student.detach(), teacher))
