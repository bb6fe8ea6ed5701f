"""Small checkpoints as the code of the papers writes them: one of each layout, of networks whose answers are known."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec

ARCH, WIDTH = "test_resnet", 96
State = dict[str, Any]


def unsettled(module: nn.Module) -> nn.Module:
    """The module in eval mode, its batch norms as after a training, so that none of their numbers can be forgotten."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.1)
    return module.eval()


class Network:
    """A backbone and a head whose embeddings a file must reproduce."""

    def __init__(self, *head: nn.Module, arch: str = ARCH, seed: int = 0, **arguments: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = unsettled(timm.create_model(arch, num_classes=0, **arguments))
            self.head = unsettled(copy.deepcopy(nn.Sequential(*head)))

    def state(self, backbone: str = "", head: str = "fc.") -> State:
        """The tensors with these prefixes; a head of one layer has no number."""
        one = len(self.head) == 1
        names = {name: name.removeprefix("0.") if one else name for name in self.head.state_dict()}
        own = {f"{backbone}{name}": tensor for name, tensor in self.backbone.state_dict().items()}
        return own | {f"{head}{names[name]}": tensor for name, tensor in self.head.state_dict().items()}

    @torch.no_grad()
    def answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and unit embeddings."""
        features = self.backbone(images)
        return features, F.normalize(self.head(features), dim=1)


def linear(*widths: int, bias: bool = True) -> list[nn.Module]:
    """Linear layers of these widths with ReLU between, as MoCo v2's head."""
    layers: list[nn.Module] = []
    for before, after in zip((WIDTH, *widths), widths, strict=False):
        layers += [nn.ReLU()] if layers else []
        layers += [nn.Linear(before, after, bias=bias)]
    return layers


def with_norm(hidden: int, dim: int, bias: bool = True) -> list[nn.Module]:
    """SwAV's head: linear, batch norm, ReLU, linear."""
    return [nn.Linear(WIDTH, hidden, bias=bias), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim, bias=bias)]


def prefixed(prefix: str, state: State) -> State:
    """The same tensors under a prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def trained(state: State, arch: str = "resnet50", **more: Any) -> State:
    """What MoCo's `save_checkpoint` writes, with the `module.` of its DistributedDataParallel."""
    return {"epoch": 200, "arch": arch, "state_dict": prefixed("module.", state), "optimizer": {"state": {}}, **more}


def queue(name: str = "queue") -> State:
    """A queue and its pointer."""
    return {name: torch.randn(8, 16), f"{name}_ptr": torch.zeros(1, dtype=torch.long)}


class Case(NamedTuple):
    """A layout: the network whose answers are wanted, the layout's name, what the file holds, the part to ask for."""

    net: Network
    layout: str
    content: Any
    part: str = ""
    unexpected: tuple[str, ...] = ()


OTHER = Network(*linear(24, 8), seed=1).state()


def moco(head: list[nn.Module]) -> Case:
    """MoCo v1 (one layer), v2 (two); ssl-small and light-moco write the same."""
    net = Network(*head)
    state = prefixed("encoder_q.", net.state()) | prefixed("encoder_k.", OTHER) | queue()
    return Case(net, "MoCo", trained(state))


def moco_key() -> Case:
    net = Network(*linear(24, 8))
    return Case(
        net, "MoCo", trained(prefixed("encoder_q.", OTHER) | prefixed("encoder_k.", net.state()) | queue()), "key"
    )


def light_moco() -> Case:
    net = Network(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 8), arch="test_efficientnet")
    state = prefixed("encoder_q.", net.state(head="classifier.")) | prefixed("encoder_k.", OTHER) | queue()
    return Case(net, "MoCo", trained(state, "test_efficientnet"))


def disco(part: str) -> Case:
    net = Network(*with_norm(24, 8))
    wanted, other = prefixed("x.", net.state(head="projection_head.")), prefixed("x.", OTHER)
    parts = {"encoder_q.": other, "encoder_k.": other, "teacher_encoder_q.": wanted, "teacher_encoder_k.": other}
    if part != "teacher":
        parts |= {"encoder_q.": wanted, "teacher_encoder_q.": other}
    state = {name.replace("x.", prefix): tensor for prefix, one in parts.items() for name, tensor in one.items()}
    return Case(net, "DisCo", trained(state | queue()), part)


def seed(part: str, inner: str = "") -> Case:
    net = Network(*linear(24, 8))
    wanted = prefixed(inner, net.state())
    student, teacher = (OTHER, wanted) if part == "teacher" else (wanted, OTHER)
    state = prefixed("student.", student) | prefixed("teacher.", teacher) | queue() | queue("small_queue")
    return Case(net, "SEED", trained(state), part)


def seed_converted() -> Case:
    net = Network(*linear(24, 8))
    state = prefixed("student.", OTHER) | prefixed("encoder_q.", net.state()) | queue()
    return Case(net, "SEED converted to MoCo", trained(state))


def compress() -> Case:
    net = Network(*linear(12))
    opt = argparse.Namespace(arch="resnet18", lr=0.01, nested={"a": [1, 2]})
    return Case(net, "CompRess", {"opt": opt, "model": prefixed("module.", net.state()), "optimizer": {}, "epoch": 130})


def swav() -> Case:
    net = Network(*with_norm(64, 16))
    state = net.state(head="projection_head.") | {"prototypes.weight": torch.randn(30, 16)}
    return Case(net, "SwAV", prefixed("module.", state), unexpected=("prototypes.weight",))


def swav_linear() -> Case:
    net = Network(*linear(16))
    state = net.state(head="projection_head.") | {"prototypes.weight": torch.randn(30, 16)}
    return Case(net, "SwAV", {"state_dict": prefixed("module.", state), "epoch": 3}, unexpected=("prototypes.weight",))


def dino(part: str) -> Case:
    net = Network(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8), arch="test_vit")
    last = {"head.last_layer.weight_g": torch.ones(40, 1), "head.last_layer.weight_v": torch.randn(40, 8)}
    wanted = prefixed("module.", net.state("backbone.", "head.mlp.") | last)
    other = prefixed("module.", Network(arch="test_vit", seed=1).state("backbone."))
    student, teacher = (wanted, other) if part == "student" else (other, wanted)
    content = {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_small"), "epoch": 3}
    return Case(net, "DINO", content, part, tuple(last))


def barlow() -> Case:
    head = [*with_norm(24, 24, bias=False), nn.BatchNorm1d(24, affine=False)]
    net = Network(*head)
    state = net.state("backbone.", "projector.")
    state = {name.replace("projector.4.", "bn."): tensor for name, tensor in state.items()}
    return Case(net, "Barlow Twins or VICReg", {"epoch": 9, "model": prefixed("module.", state)})


def vicreg() -> Case:
    net = Network(*with_norm(24, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 20, bias=False))
    return Case(net, "Barlow Twins or VICReg", {"model": prefixed("module.", net.state("backbone.", "projector."))})


def moco_v3() -> Case:
    net = Network(*with_norm(24, 8, bias=False), nn.BatchNorm1d(8, affine=False))
    predictor = {"predictor.0.weight": torch.randn(8, 8)}
    return Case(
        net,
        "MoCo v3",
        trained(prefixed("base_encoder.", net.state()) | prefixed("momentum_encoder.", OTHER) | predictor),
    )


def simsiam() -> Case:
    net = Network(*with_norm(24, 8, bias=False), nn.BatchNorm1d(8, affine=False))
    predictor = {"predictor.0.weight": torch.randn(8, 8)}
    state = prefixed("encoder.", net.state()) | predictor
    return Case(net, "SimSiam", trained(state), unexpected=tuple(predictor))


def classified(layout: str, wrap: Callable[[State], Any], prefix: str = "") -> Case:
    """A file whose single linear layer tells classes apart."""
    net = Network()
    state = prefixed(prefix, net.state() | {"fc.weight": torch.randn(10, WIDTH), "fc.bias": torch.randn(10)})
    return Case(net, layout, wrap(state), unexpected=("fc.weight", "fc.bias"))


def lightning() -> Case:
    net = Network(*with_norm(24, 8))
    state = net.state("model.backbone.", "projection_head.")
    content = {"pytorch-lightning_version": "2.1.0", "epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}
    return Case(net, "Lightning", content)


def vissl() -> Case:
    net = Network()
    model = {"trunk": prefixed("_feature_blocks.", net.state()), "heads": {"0.clf.0.weight": torch.randn(8, 16)}}
    return Case(net, "VISSL", {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model}}, "loss": {}})


def convnext() -> Case:
    net = Network(arch="test_convnext")
    state = net.state() | {"head.fc.weight": torch.randn(10, 64), "head.fc.bias": torch.randn(10)}
    return Case(net, "plain", state, unexpected=("head.fc.weight", "head.fc.bias"))


def own_state() -> Case:
    net = Network(*linear(24, 8))
    return Case(net, "backbone and head", net.state("backbone.", "head."))


CASES: dict[str, Callable[[], Case]] = {
    "moco-v1": lambda: moco(linear(8)),
    "moco-v2": lambda: moco(linear(24, 8)),
    "moco-key": moco_key,
    "light-moco": light_moco,
    "disco": lambda: disco(""),
    "disco-student": lambda: disco("student"),
    "disco-teacher": lambda: disco("teacher"),
    "seed": lambda: seed(""),
    "seed-teacher": lambda: seed("teacher"),
    "seed-simclr-teacher": lambda: seed("teacher", "module."),
    "seed-converted": seed_converted,
    "compress": compress,
    "swav": swav,
    "swav-linear": swav_linear,
    "dino": lambda: dino(""),
    "dino-student": lambda: dino("student"),
    "barlow-twins": barlow,
    "vicreg": vicreg,
    "moco-v3": moco_v3,
    "simsiam": simsiam,
    "linear-probe": lambda: classified("linear probe", lambda state: trained(state, best_acc1=torch.tensor(70.0))),
    "torchvision": lambda: classified("plain", lambda state: state),
    "data-parallel": lambda: classified("plain", lambda state: {"model": state}, "module.module."),
    "lightning-classifier": lambda: classified(
        "Lightning", lambda state: {"state_dict": state, "pytorch-lightning_version": "2.1.0"}, "model.encoder."
    ),
    "lightning": lightning,
    "vissl": vissl,
    "timm-convnext": convnext,
    "lwcl-state": own_state,
}


def save_pickled(place: Path, content: Any) -> None:
    """As torch.save has done since 1.6."""
    torch.save(content, place)


def save_old(place: Path, content: Any) -> None:
    """As torch.save did before 1.6: MoCo's own files."""
    torch.save(content, place, _use_new_zipfile_serialization=False)


def save_tensors(place: Path, content: Any) -> None:
    """Its tensors as safetensors, which have no order of layers."""
    state = content.get("state_dict", content)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, place)


def save_own(place: Path, encoder: Encoder, size: int) -> None:
    """As lwcl does."""
    save_encoder(place, encoder, InputSpec(size, (0.5,) * 3, (0.25,) * 3), {"origin": "a test"})
