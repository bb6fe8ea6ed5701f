"""Regression of the teacher's features: Reg and Reg-BN of CompRess (arXiv 2010.14713), SimReg (arXiv 2201.05131)."""

from lwcl.methods.lazy_imports import Encoder, Net, Tensor, distributed, losses, nets
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import setting


@method("compress", "regression")
class Regression(Method):
    """Regress the teacher's features through one linear layer, or through a deeper head that is discarded."""

    teacher_space = "features"

    batch_norm: bool = setting(
        False,
        "batch norm without scale and shift on both sides (Reg-BN) instead of unit length; published for ResNet-18: "
        "58.2 against 52.2 linear top-1",
        group="Method",
    )

    regression_head: str = setting(
        "linear",
        "layers from d features to the teacher's D: linear; narrow: d-d-D with one batch norm; "
        "simreg: d-2d-d-2d-D with two, twice the cost of a MobileNetV3-Small at 64 px",
        choices=("linear", "narrow", "simreg"),
        group="Method",
    )
    log_sum: bool = setting(
        False, "log of the summed 4th powers of the differences instead of their mean square (arXiv 2303.11098)",
        group="Method",
    )  # fmt: skip

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by student and teacher."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int | str, ...]:
        """From `width` to the teacher's width, by `regression_head`."""
        if self.regression_head == "linear":
            return (teacher_dim,)
        if self.regression_head == "narrow":
            return f"linear {width}", "norm", "relu", f"linear {teacher_dim}"
        wide = (f"linear {2 * width}", "norm", "relu")
        return (*wide, f"linear {width}", *wide, f"linear {teacher_dim}")

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student alone."""
        return nets.Net(student=student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Mean squared distance to the teacher: of unit vectors, or of standardised dimensions with `batch_norm`.

        Both lie in [0, 4]; with `log_sum`, the log of the summed 4th powers of the same differences. `agreement` is the
        mean cosine with the teacher.
        """
        output, target = net.student.head(net.student.features(batch.views[0])), batch.teacher_output[0]
        student, teacher = losses.l2_normalise(output), losses.l2_normalise(target)
        distance = total = losses.alignment(student, teacher)
        if self.batch_norm or self.log_sum:  # not a mean over images: the loss of all processes' images in each
            sides = (output, target) if self.batch_norm else (student, teacher)
            total = self.batch_loss(*(distributed.gather_with_gradient(side) for side in sides))
        metrics = {"loss": total.detach(), "agreement": 1 - distance.detach() / 2}
        return Loss(total, metrics, (student.detach(), teacher))

    def batch_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of a whole batch (B, D), standardised with `batch_norm`: mean square, or log-sum."""
        if not self.log_sum:
            return losses.standardised_mse(student, teacher)
        if self.batch_norm:
            student, teacher = losses.standardise(student), losses.standardise(teacher)
        return losses.log_sum(student - teacher)
