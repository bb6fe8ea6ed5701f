"""Teachers: frozen encoders that say what views show, asked in every step, or once and their answers kept.

`center` is CompRess's cached teacher (arXiv 2010.14713, its code's `--cache_teacher`); `views:K` keeps an answer for
each of K crops, and the student trains on exactly these, so that kept and live answers are the same, but for the last
bits: these depend on how many images are asked about at once.
"""

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from lwcl.checkpoints.load import load_encoder
from lwcl.config.plan import Plan
from lwcl.config.teacher_options import parse_teacher_cache
from lwcl.config.train_options import TrainOptions
from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import ImageSet
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.data.loader import Loader
from lwcl.errors import UsageError
from lwcl.methods.method import Method
from lwcl.models.check_forward import check_forward
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.reporting.console import Screen
from lwcl.system.device import choose_compute
from lwcl.training.teacher_cache import ComputeOutputs, TeacherCache

CACHE_BATCH_SIZE = (
    128  # images in one question, where the answers are kept; not the batch, or a run's bits would depend on others
)


class OnlineTeacher:
    """A teacher that is asked in every step."""

    crops = 0

    def __init__(self, loaded: LoadedEncoder, method: Method, options: TrainOptions) -> None:
        assert options.teacher_precision, "a rule settles it before a run"
        self.loaded, self.space = loaded, method.taught
        self.compute = choose_compute(loaded.encoder, options.device, options.teacher_precision)
        self.encoder = self.compute.place(loaded.encoder).requires_grad_(False).eval()
        self.dtype = self.compute.autocast or torch.float32
        if method.teacher_by_batch:
            use_batch_statistics(self.encoder)
        self.hash = weights_hash(self.encoder)

    @property
    def width(self) -> int:
        """The width of an answer."""
        widths = self.encoder.head_widths if self.space == "embedding" else ()
        return widths[-1] if widths else self.encoder.width

    @property
    def sees(self) -> InputSpec:
        """How it takes views."""
        return self.loaded.input_spec

    def answer(self, crop: int, index: Tensor, seen: Tensor | None) -> Tensor:
        """What it says of views (B, 3, size, size): (B, D) float32, rounded to what answers are kept in."""
        assert seen is not None
        with torch.inference_mode(), self.compute.context():
            views = seen.to(self.compute.device, memory_format=self.compute.memory_format)
            said = self.encoder(views) if self.space == "embedding" else self.encoder.features(views)
        return said.to(self.dtype).float().clone()  # a clone made here may take part in a loss


class CachedTeacher:
    """A teacher that was asked once: what it said of each of `crops` crops, or of the central square (`crops` 0)."""

    sees = None

    def __init__(self, cache: TeacherCache, crops: int, device: torch.device) -> None:
        self.cache, self.crops, self.device = cache, crops, device

    def answer(self, crop: int, index: Tensor, seen: Tensor | None) -> Tensor:
        """What it said of the crop: (B, D) float32."""
        return self.cache.rows(crop if self.crops else 0, index).to(self.device)


def load_teacher(plan: Plan) -> OnlineTeacher | None:
    """The teacher that a plan's method learns from; None where it has none. Raises `UsageError`."""
    options, method = plan.options, plan.method
    if options.teacher is None or not method.taught:
        return None
    loaded = load_encoder(options.teacher, arch=options.teacher_arch, image_size=options.teacher_size)
    check_forward(loaded.encoder, loaded.input_spec.size)
    live = OnlineTeacher(loaded, method, options)
    if method.teacher_by_batch and parse_teacher_cache(options.teacher_cache).kind != "off":
        raise UsageError(
            "--teacher-bn train normalises by the batch that is asked about, so its answers cannot be kept.",
            remedy="Leave --teacher-cache out, or give --teacher-bn eval.",
        )
    return live


def attach_teacher(loader: Loader, live: OnlineTeacher, plan: Plan, images: ImageSet, screen: Screen) -> Loader:
    """The loader whose batches hold what the teacher says, asked now where its answers are to be kept.

    `images` are whole, where the loader may have shrunk ones.
    """
    cache = parse_teacher_cache(plan.options.teacher_cache)
    if cache.kind == "off":
        return dataclasses.replace(loader, teacher=live)
    if cache.kind == "center":
        said = cache_center_crops(live, images, loader.workers, screen)
        return dataclasses.replace(loader, teacher=CachedTeacher(said, 0, loader.compute.device))
    store = loader.store
    made = {
        "augmentation": dataclasses.asdict(plan.augmentation),
        "seed": loader.seed,
        "views": [loader.views, loader.views_by],
        "stored pixels": int((store.heights * store.widths).sum()) if store else None,
        "decoded": None if store else [loader.short_side, loader.images is not images],
    }
    kept = open_teacher_cache(live, loader.images, cache.crops, made)
    fill_teacher_cache(kept, screen, lambda crop, index: live.answer(crop, index, loader.view(crop, index, live.sees)))
    return dataclasses.replace(loader, teacher=CachedTeacher(kept, cache.crops, loader.compute.device))


def cache_center_crops(live: OnlineTeacher, images: ImageSet, workers: int, screen: Screen) -> TeacherCache:
    """What the teacher says of every image's central square, kept: one crop."""
    kept, plain, takes = (
        open_teacher_cache(live, images, 1, {"plain": True}),
        CenterCropDataset(images, live.sees),
        live.sees,
    )

    def said(crop: int, index: Tensor) -> Tensor:
        items = list(pool.map(lambda place: plain[place][0], index.tolist()))
        views = normalise_images(torch.stack(items).to(live.compute.device), mean=takes.mean, std=takes.std)
        return live.answer(crop, index, views)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        fill_teacher_cache(kept, screen, said)
    return kept


def open_teacher_cache(live: OnlineTeacher, images: ImageSet, crops: int, made: dict[str, Any]) -> TeacherCache:
    """The cache of what this teacher says of so many crops of these images, found again by all that they depend on."""
    fingerprint = {
        "teacher": live.hash,
        "space": live.space,
        "takes": dataclasses.asdict(live.sees),
        "data": images.fingerprint,
        **made,
    }
    return TeacherCache.open(fingerprint, (crops, len(images), live.width), live.dtype)


def fill_teacher_cache(kept: TeacherCache, screen: Screen, compute: ComputeOutputs) -> None:
    """Asks the teacher what it has not been asked yet."""
    rows = kept.shape[0] * kept.shape[1]
    with screen.counting("Asking the teacher", rows) as counting:
        kept.fill(compute, CACHE_BATCH_SIZE, counting.update)


def use_batch_statistics(encoder: nn.Module) -> None:
    """Normalises by the batch, as DisCo's released code does with its teacher; running statistics stay as they are."""
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = 0.0


def weights_hash(encoder: nn.Module) -> str:
    """SHA-256 over the names and bytes of an encoder's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
