"""SEED (arXiv 2101.04731): match the teacher's similarity distribution over a queue of its own embeddings."""

from typing import Protocol

from lwcl.errors import UsageError
from lwcl.methods.lazy_imports import Encoder, Net, Queue, encoder, losses, memory, nets
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import Auto, setting


class SEEDNet(Protocol):
    """The modules of SEED."""

    student: Encoder
    queue: Queue


def matching_teacher_dim(dim: int | None, teacher_dim: int) -> int:
    """The width of the student's embedding: the teacher's. Raises `UsageError` if another was chosen."""
    assert teacher_dim, "the teacher is loaded before the student is built"
    if dim not in (None, teacher_dim):
        raise UsageError(
            f"--dim {dim} does not match the teacher's embedding, which has {teacher_dim} dimensions.",
            "The loss compares student and teacher dimension by dimension.",
            f"Leave --dim out, or give --dim {teacher_dim}.",
        )
    return teacher_dim


@method("distill", "seed")
class SEED(Method):
    """Match the teacher's similarity distribution of an image over a queue of earlier images.

    At the teacher temperature of the published code, 1e-4, an earlier image gets a visible share of the target only if
    its cosine with this one is above 0.9995: the target is one-hot, and the loss is InfoNCE with the teacher as key
    encoder. At 0.01 a cosine of 0.95 is enough, so near-duplicates are no longer pushed apart.
    """

    teacher_space = "embedding"

    temperature: float = setting(0.2, "softmax temperature of the student", above=0, group="Method")
    teacher_temperature: float = setting(
        0.01,
        "softmax temperature of the teacher; at 0.01, images with a cosine above 0.95 share the target",
        above=0,
        group="Method",
    )
    queue_size: Auto[int] = setting(
        None, "teacher embeddings in the queue [auto: from the number of images]", at_least=1, group="Method"
    )
    hidden: str = setting(
        "1x",
        "hidden width of the projection head: 1x or 2x the backbone's, a number, or 0: linear; "
        "2048 instead of 512 gained 2.3 points of top-1 on ResNet-18",
        group="Method",
    )
    dim: int | None = setting(None, "width of the embedding [the teacher's]", at_least=2, group="Method")

    def chance(self, batch: int) -> tuple[float, float | None]:
        """One of the queue's embeddings and the own one, drawn at random."""
        return 1 / (1 + self.queue_size), None

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by student and teacher."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """Widths of the projection head on a backbone of `width` features: hidden (if any), then the teacher's."""
        hidden, dim = encoder.hidden_width(self.hidden, width), matching_teacher_dim(self.dim, teacher_dim)
        return (hidden, dim) if hidden else (dim,)

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student and the queue of the teacher's embeddings."""
        dim = matching_teacher_dim(self.dim, teacher_dim)
        return nets.Net(student=student, queue=memory.Queue(self.queue_size, dim))

    def loss(self, net: SEEDNet, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy with the teacher's softmax over [the image itself, queue]; both see the same view.

        `top1`: the share of images whose embedding is nearer to the teacher's of that image than to any in the queue.
        """
        teacher, queue = losses.l2_normalise(batch.teacher_output[0]), net.queue.rows()
        student = net.student(batch.views[0])
        cosines = losses.positive_negative_cosines(student, teacher, queue)
        target = losses.positive_negative_cosines(teacher, teacher, queue)
        net.queue.push(teacher)
        total = losses.teacher_cross_entropy(cosines, target, self.temperature, self.teacher_temperature)
        positive, negative = cosines
        top1 = (positive > negative.amax(1)).float().mean()
        metrics = {"loss": total.detach(), "agreement": positive.detach().mean(), "top1": top1}
        return Loss(total, metrics, (student.detach(), teacher))
