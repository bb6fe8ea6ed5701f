"""Linear evaluation: a linear classifier on an encoder's features, the encoder as it is or finetuned with it.

MoCo's protocol (arXiv 1911.05722, section 4.1), with the forms of features of CompRess (2010.14713) and ssl-small
(2107.14762) beside. `lwcl.config.probe_protocols` has the numbers.
"""

from typing import ClassVar

from lwcl.methods._torch import Encoder, F, Net, probe_net
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


@method("probe", "linear")
class Linear(Method):
    """A linear classifier of an encoder's features; the encoder stays as it is, or is finetuned with it."""

    views: ClassVar[int] = 1

    form: str = setting(
        "raw",
        "features as they are (raw), of length 1 (unit), or then standardised by the training images (standard)",
        choices=("raw", "unit", "standard"),
        group="Method",
    )
    finetune: bool = setting(False, "train all weights, not the classifier's alone", group="Method")
    classes: int = setting(2, "number of classes", at_least=2, group="Method")

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """None: the classifier sits on the backbone."""
        return ()

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The encoder and a new classifier; the encoder's weights are frozen unless they are finetuned."""
        classifier = probe_net.LinearClassifier(student.width, self.classes, self.form)
        return probe_net.ProbeNet(student, classifier, frozen=not self.finetune)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy of the labels, and the share of images that are classified right."""
        logits = net(batch.views[0])
        labels = batch.labels.to(logits.device)
        total = F.cross_entropy(logits, labels)
        right = (logits.argmax(1) == labels).float().mean()
        return Loss(total, {"loss": total.detach(), "right": right})
