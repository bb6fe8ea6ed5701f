"""A method's modules by name: the trained student and whatever goes with it."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from lwcl.models.memory import ClusterClassifier, FeatureBank
from lwcl.models.encoder import Encoder
from lwcl.models.memory import Queue
from lwcl.models.momentum_encoder import MomentumEncoder


class Net(nn.Module):
    """A method's modules by name: the trained `student` and whatever goes with it."""

    student: Encoder
    key: MomentumEncoder
    queue: Queue
    anchors: "FeatureBank"
    clusters: "ClusterClassifier"

    def __init__(self, student: Encoder, **parts: nn.Module) -> None:
        super().__init__()
        self.student = student
        for name, part in parts.items():
            self.add_module(name, part)

    def advance(self) -> None:
        """What happens after an optimiser step: key encoders follow, then queues take the step's keys."""
        for kind in (MomentumEncoder, Queue):
            for part in self.children():
                if isinstance(part, kind):
                    part.advance(self.student)
