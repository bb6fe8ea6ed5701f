"""What methods use of torch, imported at first use: parsing a command line imports every method, but never torch.

Classes are for annotations only; modules are built by `nets.Net`, `memory.Queue` and so on.
"""

from typing import TYPE_CHECKING

from lwcl.lazy import Lazy

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from lwcl import losses
    from lwcl.metrics import kmeans
    from lwcl.models import encoder, memory, momentum_encoder, prototypes
    from lwcl.models import net as nets
    from lwcl.models import probe as probe_net
    from lwcl.models.encoder import Encoder
    from lwcl.models.memory import ClusterClassifier, FeatureBank, Queue
    from lwcl.models.momentum_encoder import MomentumEncoder
    from lwcl.models.net import Net
    from lwcl.models.probe import ProbeNet
    from lwcl.models.prototypes import Prototypes
    from lwcl.system import distributed
else:
    torch, F, losses, kmeans = map(Lazy, ("torch", "torch.nn.functional", "lwcl.losses", "lwcl.metrics.kmeans"))
    prototypes, distributed = Lazy("lwcl.models.prototypes"), Lazy("lwcl.system.distributed")
    encoder, memory, momentum_encoder, nets, probe_net = (
        Lazy(f"lwcl.models.{name}") for name in ("encoder", "memory", "momentum_encoder", "net", "probe")
    )
    Tensor = Encoder = Net = MomentumEncoder = Queue = FeatureBank = ClusterClassifier = ProbeNet = Prototypes = object

__all__ = [
    "ClusterClassifier", "Encoder", "F", "FeatureBank", "MomentumEncoder", "Net", "ProbeNet", "Prototypes", "Queue",
    "Tensor", "distributed", "encoder", "kmeans", "losses", "memory", "momentum_encoder", "nets", "probe_net",
    "prototypes", "torch",
]  # fmt: skip
