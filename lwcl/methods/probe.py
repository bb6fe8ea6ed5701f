"""Linear evaluation: a linear classifier on the features of an encoder, frozen or fine-tuned.

MoCo's protocol (arXiv 1911.05722, section 4.1), and the feature normalisations of CompRess (2010.14713) and
ssl-small (2107.14762). `lwcl.config.probe_protocols` has the numbers.
"""

from lwcl.methods.lazy_imports import Encoder, F, Net, ProbeNet, probe_net
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import setting


@method("probe", "linear")
class LinearProbe(Method):
    """A linear classifier on the features of an encoder, frozen or fine-tuned."""

    form: str = setting(
        "raw",
        "features: raw; unit: L2-normalised; standard: L2-normalised, then standardised by the training set",
        choices=("raw", "unit", "standard"),
        group="Method",
    )
    finetune: bool = setting(False, "train all weights, not only the classifier", group="Method")
    classes: int = setting(2, "number of classes", at_least=2, group="Method")

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """No projection head: the classifier sits on the backbone."""
        return ()

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The encoder and a new classifier; the encoder's weights are frozen unless it is fine-tuned."""
        classifier = probe_net.LinearClassifier(student.width, self.classes, self.form)
        return probe_net.ProbeNet(student, classifier, frozen=not self.finetune)

    def loss(self, net: ProbeNet, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy with the labels; `right` is the accuracy."""
        logits = net(batch.views[0])
        labels = batch.labels.to(logits.device)
        total = F.cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).float().mean()
        return Loss(total, {"loss": total.detach(), "right": right})
