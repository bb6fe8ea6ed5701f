"""SEED (arXiv 2101.04731): the student finds among a queue of the teacher's embeddings what the teacher finds there."""

from lwcl.errors import UsageError
from lwcl.methods._torch import Encoder, Net, encoder, losses, memory, nets
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


def matching_teacher_dim(dim: int | None, taught: int) -> int:
    """The width of the student's embedding, which is the teacher's; raises `UsageError` where another was chosen."""
    assert taught, "a teacher says how wide its answers are before a student is built"
    if dim not in (None, taught):
        raise UsageError(
            f"--dim: got {dim}, and the teacher's embedding has {taught}.",
            "The student's embedding is compared with the teacher's, number by number.",
            f"Leave --dim out, or give --dim {taught}.",
        )
    return taught


@method("distill", "seed")
class SEED(Method):
    """Compare an image with the teacher's embeddings of earlier images, and agree with the teacher's comparison.

    At the published code's teacher temperature of 1e-4 an earlier image gets a visible share of the target only if its
    cosine with this one is above 0.9995: the target is one-hot, and the loss InfoNCE with the teacher as key encoder.
    At 0.01 a cosine of 0.95 is enough, so near-duplicates are no longer pushed away.
    """

    views = 1
    taught = "embedding"

    temperature: float = setting(0.2, "softmax temperature of the contrast", above=0, group="Method")
    teacher_temperature: float = setting(
        0.01,
        "softmax temperature of the teacher; its images share the target from a cosine of 0.95",
        above=0,
        group="Method",
    )
    queue_size: int | None = setting(
        None, "the teacher's embeddings to compare with [settled from the number of images]", at_least=1, group="Method"
    )
    hidden: str = setting(
        "1x",
        "hidden width of the head: 1x or 2x the backbone's, a number, or 0 for a linear head; "
        "2048 was worth 2.3 points of top-1 over 512 on a ResNet-18",
        group="Method",
    )
    dim: int | None = setting(None, "width of the embedding [the teacher's]", at_least=2, group="Method")

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """Widths of the projection head on a backbone of `width` features: hidden (if any), then the teacher's."""
        hidden, dim = encoder.hidden_width(self.hidden, width), matching_teacher_dim(self.dim, taught)
        return (hidden, dim) if hidden else (dim,)

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student and the queue of the teacher's embeddings."""
        assert self.queue_size is not None, "a rule settles it before a run"
        return nets.Net(student=student, queue=memory.Queue(self.queue_size, matching_teacher_dim(self.dim, taught)))

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy with the teacher's softmax over [the own image, queue]; both see the same view.

        `top1`: the share of images whose embedding is nearer to the teacher's of that image than to any in the queue.
        """
        teacher, queue = losses.l2_normalise(batch.taught[0]), net.queue.rows()
        student = net.student(batch.views[0])
        positive, negative = losses.positive_negative_cosines(student, teacher, queue)
        said = losses.positive_negative_cosines(teacher, teacher, queue)
        net.queue.push(teacher)
        total = losses.teacher_cross_entropy((positive, negative), said, self.temperature, self.teacher_temperature)
        found = (positive > negative.amax(1)).float().mean()
        parts = {"loss": total.detach(), "agreement": positive.detach().mean(), "top1": found}
        return Loss(total, parts, (student.detach(), teacher))
