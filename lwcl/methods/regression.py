"""Regression of the teacher's features: the baselines Reg and Reg-BN of CompRess (arXiv 2010.14713)."""

from lwcl.methods._torch import Encoder, Net, losses, nets
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import setting


@method("compress", "regression")
class Regression(Method):
    """Regress the teacher's features through one linear layer."""

    teacher_space = "features"

    batch_norm: bool = setting(
        False,
        "batch norm without scale and shift on both sides (Reg-BN) instead of unit length; published for ResNet-18: "
        "58.2 against 52.2 linear top-1",
        group="Method",
    )

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by student and teacher."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """One linear layer to the teacher's width."""
        return (teacher_dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student alone."""
        return nets.Net(student=student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Mean squared distance to the teacher: of unit vectors, or of standardised dimensions with `batch_norm`.

        Both lie in [0, 4]. `agreement` is the mean cosine with the teacher.
        """
        output, target = net.student.head(net.student.features(batch.views[0])), batch.teacher_output[0]
        student, teacher = losses.l2_normalise(output), losses.l2_normalise(target)
        distance = losses.alignment(student, teacher)
        total = losses.standardised_mse(output, target) if self.batch_norm else distance
        metrics = {"loss": total.detach(), "agreement": 1 - distance.detach() / 2}
        return Loss(total, metrics, (student.detach(), teacher))
