"""S2-BNN (arXiv 2102.08946): a binary student matches a full-precision teacher's embedding, without a contrast."""

from lwcl.methods.lazy_imports import Encoder, F, Net, losses, nets
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import setting


@method("compress", "s2-bnn")
class S2BNN(Method):
    """Match the softmax over the dimensions of the teacher's embedding; made for students of few bits (`--bits`)."""

    teacher_space = "embedding"

    temperature: float = setting(
        0.2, "softmax temperature over the dimensions, of student and teacher", above=0, group="Method"
    )

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by student and teacher."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """One linear layer to the width of the teacher's embedding."""
        return (teacher_dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student alone."""
        return nets.Net(student=student)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy CE(softmax(teacher / T), softmax(student / T)) of unit embeddings; `agreement`: mean cosine.

        The paper's best: the contrast, alone or beside this, was worse for its binary nets.
        """
        student, teacher = net.student(batch.views[0]), losses.l2_normalise(batch.teacher_output[0])
        total = F.cross_entropy(student / self.temperature, (teacher / self.temperature).softmax(1))
        agreement = (student.detach() * teacher).sum(1).mean()
        return Loss(total, {"loss": total.detach(), "agreement": agreement}, (student.detach(), teacher))
