"""Golden trajectories: loss and gradient norm of five float64 steps of every method, and sums of the loader's views.

A change that is not about computation leaves them as they are. On a machine of the recorded fingerprint they are equal
to the last bit, elsewhere to 1e-9 (float32 views: 1e-5). To record them anew: LWCL_UPDATE_GOLDEN=1, with the reason in
the commit.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from runs import made_images, picture
from torch import Tensor

from lwcl import engine
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.recipes import Optimization
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.dataset import open_images
from lwcl.data.loader import Loader, StudentViews
from lwcl.methods.method import Batch, ViewSpec, methods
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.system.compute import Compute
from lwcl.system.environment import cpu_name, package_version

GOLDEN = Path(__file__).parent / "golden" / "trajectories.json"
SIZE, BATCH, STEPS = 32, 8, 5
CPU = Compute(torch.device("cpu"))
SMALL = {"queue_size": 16, "key_momentum": 0.9, "neighbours": 3, "anchors": 16, "clusters": 3, "prototypes": 12}
#: Settings that are not the defaults, each a trajectory of its own.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "moco symmetric": ("moco", {"symmetric": True}),
    "moco head-norm": ("moco", {"head_norm": True}),
    "moco local-crops": ("moco", {"symmetric": True, "local_crops": 2}),
    "light-moco local-crops": ("light-moco", {"symmetric": False, "local_crops": 1}),
    "simclr local-crops": ("simclr", {"queue_size": 0, "key_momentum": 0.0, "local_crops": 2}),
    "swav queue": ("swav", {"queue_start": 1.0, "prototype_freeze": 0.0, "local_crops": 1}),
    "simclr plain": ("simclr", {"queue_size": 0, "key_momentum": 0.0}),
    "simclr predictor": ("simclr", {"predictor": "16", "smoothing": 0.1, "decoupled": False}),
    "regression simreg": ("regression", {"regression_head": "simreg"}),
    "regression narrow log-sum": ("regression", {"regression_head": "narrow", "batch_norm": True, "log_sum": True}),
    "regression batch-norm": ("regression", {"batch_norm": True}),
}
FINGERPRINT = {"cpu": cpu_name(), "threads": 1} | {name: package_version(name) for name in ("torch", "timm", "numpy")}


def every_trajectory() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each method that trains an encoder, with its defaults, and the variants."""
    plain = {name: (name, {}) for name, kind in methods().items() if kind.command != "probe"}
    return plain | VARIANTS


def drawn(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """Uniform float64 numbers in [-1, 1] by numpy's legacy generator, which is the same on every machine."""
    return torch.from_numpy(numpy.random.RandomState(seed).uniform(-1, 1, tuple(shape)))


@torch.no_grad()
def with_drawn_weights(net: torch.nn.Module, seed: int) -> None:
    """Float64 weights and memories that do not depend on torch's generator; key encoders equal the student."""
    net.double()
    names = [name for name, tensor in net.state_dict().items() if tensor.is_floating_point() and tensor.ndim > 1]
    for name, tensor in net.state_dict().items():
        leader = name.replace("key.encoder.", "student.")
        if name in names:
            fan_in = tensor[0].numel()
            tensor.copy_(drawn(tensor.shape, seed + names.index(leader if leader in names else name)) / fan_in**0.5)
        elif name.endswith("bias"):
            tensor.zero_()


def trajectory(name: str, settings: dict[str, Any]) -> list[tuple[float, float]]:
    """Loss and gradient norm of each of `STEPS` steps."""
    kind = methods()[name]
    method = kind(**{key: value for key, value in SMALL.items() if key in kind.__dataclass_fields__} | settings)
    teacher = Encoder("test_resnet", (12,))
    with_drawn_weights(teacher.eval().requires_grad_(False), 1000)
    say = teacher.features if kind.teacher_space == "features" else teacher
    views = [drawn((len(method.view_specs()), BATCH, 3, SIZE, SIZE), 2000 + step) for step in range(STEPS)]
    said = [tuple(say(view) for view in pair) if kind.teacher_space else () for pair in views]
    width = said[0][0].shape[1] if kind.teacher_space else 0
    student = Encoder(
        "test_efficientnet", method.head(Encoder("test_efficientnet").width, width), norm=method.head_norm
    )
    net = method.build(student, width)
    with_drawn_weights(net, 0)
    if kind.needs_teacher_features:
        method.initialise(net, torch.cat([answer for pair in said for answer in pair]).float(), 0)
        net.double()
    nobody = torch.full((BATCH,), -1)
    batches = [Batch(tuple(pair), nobody, nobody, answers) for pair, answers in zip(views, said, strict=True)]
    recipe = Optimization(epochs=3, batch_size=BATCH, lr=0.01, weight_decay=1e-4, warmup=1.0)
    optimizer = engine.build_optimizer(net, recipe, 0.01, 1e-4)
    steps = engine.fit(method, net, batches, recipe, optimizer, CPU, steps_per_epoch=2, start=0, seed=0)
    return [(step.metrics["loss"], step.grad_norm) for step in steps]


def views_of_the_loader(folder: Path, augmentation: str) -> list[list[float]]:
    """The sum of every view of the first two batches of generated images."""
    images = open_images((str(made_images(folder, 16)),), "train")
    pixels = torch.stack([torch.from_numpy(numpy.array(picture(number))) for number in range(16)])
    sides = torch.full((16,), pixels.shape[1])
    store = PixelStore(pixels.flatten(), torch.arange(16) * pixels[0].numel(), sides, sides, [])
    loader = Loader(
        images=images,
        store=store,
        student=StudentViews(
            (ViewSpec(),) * 2,
            Augmentation(**AUGMENTATIONS[augmentation]),
            InputSpec.for_arch("test_efficientnet", SIZE),
        ),
        batch_size=BATCH,
        seed=0,
        compute=CPU,
        on_broken=lambda bad: pytest.fail(str(bad)),
    )
    return [[float(view.double().sum()) for view in batch.views] for batch in loader.batches(0, 2)]


def recorded() -> dict[str, Any]:
    """The golden file."""
    return json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {"trajectories": {}, "views": {}}


def compare_or_record(part: str, name: str, found: Any, relative: float) -> None:
    """Compares with the golden values; or records them, where that is asked for."""
    document = recorded()
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        document["fingerprint"] = FINGERPRINT
        document[part][name] = found
        GOLDEN.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    expected = recorded()[part][name]
    if recorded()["fingerprint"] == FINGERPRINT:
        assert [list(row) for row in found] == expected
    for row, golden in zip(found, expected, strict=True):
        assert list(row) == pytest.approx(golden, rel=relative)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", every_trajectory())
def test_five_steps_are_those_that_were_recorded(name: str) -> None:
    compare_or_record("trajectories", name, trajectory(*every_trajectory()[name]), 1e-9)


@pytest.mark.parametrize("augmentation", ["moco-v2", "crop-flip"])
def test_the_views_of_the_loader_are_those_that_were_recorded(augmentation: str, tmp_path: Path) -> None:
    compare_or_record("views", augmentation, views_of_the_loader(tmp_path, augmentation), 1e-5)


def test_every_method_has_a_golden_trajectory_and_no_other_has() -> None:
    assert set(recorded()["trajectories"]) == set(every_trajectory())
