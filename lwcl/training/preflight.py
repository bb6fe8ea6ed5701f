"""Before the first step: what will be done and why, and settings that cost hours before they show that they fail."""

from collections.abc import Iterator

import torch

from lwcl.config.plan import ResolvedConfig
from lwcl.data.cache.pixels import PixelStore
from lwcl.data.copies import first_of_each, pixel_hashes
from lwcl.data.dataset import ImageSet
from lwcl.formatting import plural
from lwcl.models.backbone import batch_norms
from lwcl.models.net import Net
from lwcl.reporting.console import Screen
from lwcl.settings import flag_name

#: Below this, BYOL and DINO collapse and SimCLR loses 18 points; SEED, with a teacher, does not collapse (arXiv
#: 2605.08241).
MIN_PARAMETERS = 500_000
#: Below this, nets are still on InfoNCE's plateau (docs/results.md: up to 130, 160 and 322 steps for three nets).
MIN_STEPS = 300
#: Below this, the statistics of batch norm are too noisy (Wu & He, arXiv 1803.08494: error rises below 16 images).
MIN_NORMALISED_IMAGES = 16
#: Duplicates are searched among at most this many images and bytes in total (hashed in a second or less).
COMPARED_IMAGES, COMPARED_BYTES = 4096, 2**28
#: Settings in epochs that delay something, and what it means where the run is not longer.
DELAYED = {"prototype_freeze": "the prototypes are never trained", "smoothing_warmup": "smoothing never begins"}
MIN_COPIES = 0.01  # share of the images looked at from which copies are reported


def early_warnings(config: ResolvedConfig, net: Net, steps: int) -> Iterator[str]:
    """What a run of `steps` steps will probably suffer from, and what to do instead."""
    optimization, method = config.optimization, config.method
    parameters = sum(p.numel() for p in net.student.backbone.parameters())
    if parameters < MIN_PARAMETERS and not method.teacher_space:
        yield (
            f"{config.options.arch} has {parameters / 1e6:.2g} M parameters: below {MIN_PARAMETERS / 1e6:g} M, "
            "learning without a teacher often fails; `lwcl distill` or `lwcl compress` with a --teacher works."
        )
    if steps < MIN_STEPS and not method.teacher_space:
        yield (
            f"The run has only {plural(steps, 'step')}: in fewer than {MIN_STEPS} little is learned without a teacher; "
            f"give more --epochs, more images, or a --batch-size below {optimization.batch_size}."
        )
    for name, what in DELAYED.items():
        if name in config.values and (delay := config.values[name].value) >= optimization.epochs:
            yield f"{flag_name(name)} {delay:g}: the run has {plural(optimization.epochs, 'epoch')}, so {what}."
    processes = 1 if optimization.sync_bn else config.options.devices
    images = optimization.batch_size // (optimization.accumulate * optimization.bn_splits * processes)
    has_batch_norm = any(True for _ in batch_norms(net.student))
    if images < MIN_NORMALISED_IMAGES and has_batch_norm:
        yield (
            f"Batch norm sees {images} images at a time: below {MIN_NORMALISED_IMAGES} its statistics are noisy; "
            "give a larger --batch-size, or less --accumulate and --bn-splits."
        )


def copies_warning(store: PixelStore) -> str:
    """What is wrong with stored images if some are the same, pixel for pixel; "" if hardly any are."""
    most = min(COMPARED_IMAGES, max(2, COMPARED_BYTES * len(store) // max(1, store.pixels.nbytes)))
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))[:most].tolist()
    own = {int(store.offsets[index]): index for index in order}  # a broken image shares the bytes of its stand-in
    hashes = [found for index in own.values() for found in pixel_hashes(store.sample_bytes(index)[None].cpu())]
    different, seen = len(first_of_each(hashes)), plural(len(hashes), "image")
    if different == 1:
        return f"All of {seen} looked at are the same, pixel for pixel: nothing can be learned from them."
    if len(hashes) - different < MIN_COPIES * len(hashes):
        return ""
    return (
        f"{len(hashes) - different:,} of {seen} looked at are copies of others, pixel for pixel: training takes copies "
        "for different images; remove them."
    )


def print_auto_settings(config: ResolvedConfig, images: ImageSet, screen: Screen) -> None:
    """Prints what is trained on how many images for how long, then each automatic setting with its reason."""
    options, batch = config.options, config.optimization.batch_size
    per_epoch = plural(len(images) // batch, "step")
    length = plural(config.optimization.epochs, "epoch") if not config.unsettled else f"--minutes {options.minutes:g}"
    screen.say(
        f"{config.method.name}, recipe {options.recipe}: {options.arch} on {plural(len(images), 'image')} "
        f"at {options.image_size} px; {length} of {per_epoch} of {batch} images."
    )
    for name, setting in config.values.items():
        if setting.origin.is_automatic and name not in config.unsettled:
            screen.say(f"  {name} {setting}")
