"""Views by OpenCV: those of the batched way but for the rounding, the same bits in whatever batch and thread."""

import numpy as np
import pytest
import torch
from test_views import MEAN, MOCO, RAW, STD, STRONG, drawn, pictures

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.colour import IDENTITY_FACTORS
from lwcl.data.augment.views import make_views, make_views_from_crops

pytest.importorskip("cv2")
LEVEL = 1 / 255
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
NORMAL = {"mean": MEAN, "std": STD}


def levels_apart(images: torch.Tensor, draw: AugmentParams, size: int) -> torch.Tensor:
    """What OpenCV's views lie above the batched ones, in levels of 255."""
    batched, single = (make_views(images, draw, size, backend=backend, **RAW) for backend in ("tensor", "opencv"))
    return (single - batched) / LEVEL


def with_only(
    draw: AugmentParams, operations: tuple[int, ...] = (), gray: bool = False, blur: bool = False
) -> AugmentParams:
    """A draw that cuts and mirrors as before, and does nothing else but what is named."""
    keep = torch.tensor([operation in operations for operation in range(4)])
    return draw._replace(
        factors=torch.where(keep, draw.factors, IDENTITY_FACTORS).float(),
        gray=torch.full_like(draw.gray, gray),
        sigma=torch.full_like(draw.sigma, 0.9 if blur else 0),
    )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("height", "width", "size"), [(55, 55, 32), (40, 71, 32), (20, 24, 33), (110, 97, 64)])
def test_crops_have_the_bits_of_the_batched_way(height, width, size, layout):
    images = pictures(12, height, width).contiguous(memory_format=layout)
    apart = levels_apart(images, with_only(drawn(MOCO, images, size)), size)
    assert apart.count_nonzero() == 0


@pytest.mark.parametrize(
    ("what", "mean", "most"),
    [
        ({"operations": (BRIGHTNESS,)}, 0.27, 0.501),
        ({"operations": (CONTRAST,)}, 0.27, 0.51),
        ({"operations": (SATURATION,)}, 0.27, 0.8),
        ({"operations": (HUE,)}, 0.4, 12),
        ({"gray": True}, 0.27, 0.6),
        ({"blur": True}, 0.27, 0.51),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "gray", "blur"],
)
def test_each_operation_is_the_batched_one_but_for_its_rounding(what, mean, most):
    images = pictures(40, 90, 70)
    apart = levels_apart(images, with_only(drawn(STRONG, images, 40), **what), 40)
    assert float(apart.abs().mean()) < mean
    assert float(apart.abs().max()) < most
    assert abs(float(apart.mean())) < 0.1, "no level is lost on the whole"
    assert apart.count_nonzero() > 0


@pytest.mark.parametrize("size", [24, 65])
@pytest.mark.parametrize("augmentation", [MOCO, STRONG], ids=["moco-v2", "ssl-small"])
def test_whole_views_are_the_batched_ones_but_for_the_rounding(augmentation, size):
    images = pictures(60, 110, 90)
    apart = levels_apart(images, drawn(augmentation, images, size), size)
    assert float(apart.abs().mean()) < 0.6
    assert float(apart.abs().flatten().quantile(0.99)) < 5
    assert abs(float(apart.mean())) < 0.1


@pytest.mark.parametrize("size", [31, 32, 97])
def test_a_view_has_the_same_bits_in_any_batch_and_thread(size):
    images = pictures(30, 80, 75)
    together = make_views(images, drawn(STRONG, images, size), size, backend="opencv", threads=2, **NORMAL)
    for count in (1, 2, 7):
        for index in torch.randperm(30, generator=torch.Generator().manual_seed(count)).split(count)[:12]:
            draw = drawn(STRONG, images[index], size, index)
            assert torch.equal(make_views(images[index], draw, size, backend="opencv", **NORMAL), together[index])


def test_padding_is_never_seen_by_opencv():
    images = pictures(10, 40, 50)
    padded = torch.nn.functional.pad(images, (0, 14, 0, 24))
    draw = drawn(MOCO, images, 32)
    views, others = (make_views(batch, draw, 32, backend="opencv", **NORMAL) for batch in (images, padded))
    assert torch.equal(views, others)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opencv_gives_the_layout_and_type_asked_for(channels_last, dtype):
    images = pictures(5, 40, 40)
    draw = drawn(MOCO, images, 32)
    views = make_views(images, draw, 32, dtype=dtype, channels_last=channels_last, backend="opencv", **NORMAL)
    assert views.dtype == dtype
    assert views.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert not views.is_inference()
    assert torch.equal(views, make_views(images, draw, 32, backend="opencv", **NORMAL).to(dtype))


def test_crops_of_the_workers_are_painted_by_opencv_too():
    images = pictures(12, 32, 32)
    draw = drawn(MOCO, images, 32)._replace(flip=torch.zeros(12, dtype=torch.bool))
    whole = draw._replace(boxes=torch.tensor([[0, 0, 32, 32]]).expand(12, 4))
    theirs = make_views_from_crops(images, draw, backend="opencv", **NORMAL)
    assert torch.equal(theirs, make_views(images, whole, 32, backend="opencv", **NORMAL))


def test_a_blur_wider_than_the_view_is_cut_to_it_by_opencv():
    images = pictures(2, 20, 20)
    draw = with_only(drawn(MOCO, images, 16))._replace(sigma=torch.tensor([0.0, 20.0]))
    assert float(levels_apart(images, draw, 16).abs().max()) < 0.6


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_opencv_makes_every_preset(name):
    images = pictures(8, 30, 36)
    views = make_views(images, drawn(Augmentation(**AUGMENTATIONS[name]), images, 24), 24, backend="opencv", **NORMAL)
    assert views.shape == (8, 3, 24, 24)
    assert bool(views.isfinite().all())
    assert np.isclose(float(views.mean()), 0, atol=1.5)
