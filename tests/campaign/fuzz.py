"""Damaged images of every format: each decodes, by Pillow, and is augmented by torch and OpenCV, or has a reason."""

import io
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from runs import picture
from trials import trial

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.data.augment.views import make_views, sample_augment_params
from lwcl.data.decode import MAX_IMAGE_PIXELS, UnreadableImageError, decode, downscale

EACH, IMAGES, SIDE = 200, 20_000, 48
MOST_SECONDS = 1.0
MOST_MB = 15 * MAX_IMAGE_PIXELS >> 20  # what Pillow takes for the largest WebP that is read: 15 bytes a pixel
AUGMENTATION = Augmentation(**AUGMENTATIONS["moco-v2"])
#: How each format is written: Pillow's name and arguments, and the mode.
FORMS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "quality": 30}),
    ("JPEG", "L", {}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True, "animated": True}),
    ("GIF", "P", {}),
    ("GIF", "P", {"save_all": True, "animated": True}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "I;16", {}),
    ("TIFF", "CMYK", {"compression": "jpeg"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "F", {}),
)


def written(form: int, number: int) -> bytes:
    """An image in one of the forms."""
    kind, mode, how = FORMS[form]
    image = picture(number, SIDE)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    image = image.convert(mode) if image.mode != mode else image
    more = dict(how)
    if more.pop("animated", False):
        more["append_images"] = [picture(number + 1, SIDE).convert(mode)]
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """A file with a few changes: bits, bytes, extreme numbers, pieces cut, doubled or taken from another file."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if len(changed) < 4:
            break
        place = draw.randrange(min(len(changed), draw.choice((64, 400, len(changed)))))
        end = place + draw.choice((1, 2, 4, 64))
        kind = draw.randrange(7)
        if kind == 0:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[place] = draw.randrange(256)
        elif kind == 2:
            changed[place : place + 4] = draw.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
            )
        elif kind == 3:
            del changed[place:end]
        elif kind == 4:
            changed[place:place] = changed[place:end]
        elif kind == 5:
            changed[place:end] = other[place:end]
        else:
            del changed[draw.randrange(len(changed)) :]
    return bytes(changed)


def view(image: Image.Image) -> None:
    """A view by either backend: finite, and nearly the same."""
    pixels = torch.from_numpy(np.asarray(downscale(image, 32)).copy()).permute(2, 0, 1)[None]
    height, width = (torch.tensor([side]) for side in pixels.shape[2:])
    params = sample_augment_params(
        AUGMENTATION, size=16, seed=0, epoch=0, view=0, index=torch.tensor([0]), heights=height, widths=width
    )
    statistics: Any = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    one, other = (make_views(pixels, params, 16, backend=name, **statistics) for name in ("tensor", "opencv"))
    assert bool(one.isfinite().all() and other.isfinite().all())
    assert float((one - other).abs().mean()) < 0.1, "the backends differ"


def must_be_decoded_or_refused(data: bytes, min_side: int | None) -> bool:
    """Whether an image can be decoded; asserts that if not, it has a reason, and that it takes little time."""
    begun = time.process_time()
    try:
        image = decode(data, min_side=min_side)
    except UnreadableImageError as error:
        if error.reason and "\n" not in error.reason:
            return False
        raise
    finally:
        seconds = time.process_time() - begun
        assert seconds < MOST_SECONDS, f"{seconds:.1f} s"
    assert image.mode == "RGB" and min(image.size) >= 1
    view(image)
    return True


PROMISE = (
    f"damaged images of {len(FORMS)} forms of six formats, augmented by torch and OpenCV: no crash, none above "
    f"{MOST_SECONDS:g} s or {MOST_MB} MB, each is an image or has a reason"
)


@trial("T13", PROMISE, IMAGES // EACH, tries=EACH)
def fuzzed(case: int, folder: Path, prepared: None) -> int:
    """Decode two hundred damaged images."""
    draw = random.Random(case)  # noqa: S311  # no secret
    signal.alarm(300)
    forms = [written(form, case) for form in range(len(FORMS))]
    assert sum(must_be_decoded_or_refused(data, None) for data in forms) > len(forms) // 2, "undamaged ones decode"
    before, decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for number in range(EACH):
        form = (case * EACH + number) % len(FORMS)
        data = mutated(forms[form], draw.choice(forms), draw)
        (folder / "last").write_bytes(data)
        decoded += must_be_decoded_or_refused(data, draw.choice((None, 16)))
    print(decoded, "decoded")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MOST_MB, f"{grown:.0f} MB"
    return EACH
