"""Views: drawn and applied as torchvision draws and applies them, the same bits for an image in whatever batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as tv

from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.data.augment import colour
from lwcl.data.augment.apply import AugmentParams
from lwcl.data.augment.blur import gaussian_blur_, half_kernels, kernel_radii
from lwcl.data.augment.crops import crop_float32, crop_uint8, crop_with_pillow
from lwcl.data.augment.views import make_views, make_views_from_crops, normalise_images, sample_augment_params
from lwcl.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
CLOSE = 1e-5  # on floats in [0, 1]
MOCO = Augmentation(**AUGMENTATIONS["moco-v2"])
STRONG = Augmentation(**AUGMENTATIONS["ssl-small"])


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth colourful uint8 images (count, 3, height, width), channels last in memory; some flat, some noisy."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    images[::5] = torch.rand(images[::5].shape, generator=generator)
    images[3::7] = 0.4
    return (images * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)


def drawn(
    augmentation: Augmentation, images: torch.Tensor, size: int, index: torch.Tensor | None = None
) -> AugmentParams:
    """The draw of whole, unpadded images."""
    count, _, height, width = images.shape
    index = torch.arange(count) if index is None else index
    sides = {"heights": torch.full((count,), height), "widths": torch.full((count,), width)}
    return sample_augment_params(augmentation, size=size, seed=1, epoch=2, view=0, index=index, **sides)


def floats() -> torch.Tensor:
    """Float images (6, 3, 31, 31) in [0, 1]: noise, few levels, flat, with a black band, pale."""
    images = torch.rand(6, 3, 31, 31, generator=torch.Generator().manual_seed(0))
    images[1] = (images[1] * 4).round() / 4
    images[2] = 0.5
    images[3, :, :5] = 0
    images[4] = images[4] / 20 + 0.5
    return images


def recolour(images: torch.Tensor, operation: int, factors: torch.Tensor) -> None:
    """One colour operation in place."""
    table = colour.jitter_coefficients(factors[:, None].expand(-1, 4))[:, operation]
    colour.JITTER_OPERATIONS[operation](images.mul_(255).flatten(2), *table.split((1, 3), 1))
    images.div_(255)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_operations_are_torchvisions(name):
    images, factors = floats(), torch.tensor([0.3, 1.7, 1.0, 0.6, 1.2, 0.0])
    expected = [getattr(tv, f"adjust_{name}")(image, float(f)) for image, f in zip(images, factors, strict=True)]
    recolour(images, ["brightness", "contrast", "saturation"].index(name), factors)
    torch.testing.assert_close(images, torch.stack(expected), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("turn", [-0.5, -0.41, -1 / 3, -0.2, -0.01, 0.0, 0.01, 0.1, 1 / 3, 0.4, 0.49, 0.5])
def test_hue_is_torchvisions(turn):
    images = floats()
    expected = tv.adjust_hue(images, turn)
    recolour(images, 3, torch.full((6,), turn))
    torch.testing.assert_close(images, expected, rtol=0, atol=CLOSE)


def test_gray_is_torchvisions():
    images = floats()
    expected = tv.rgb_to_grayscale(images, 3)
    colour.to_grayscale_(images.flatten(2))
    torch.testing.assert_close(images, expected, rtol=0, atol=CLOSE)


def test_blur_is_torchvisions_with_kernels_of_three_sigma():
    images, sigmas = floats(), torch.tensor([0.1, 0.3, 0.7, 1.2, 2.0, 2.5])
    widths = (2 * kernel_radii(sigmas) + 1).tolist()
    expected = [tv.gaussian_blur(images[i], [width] * 2, [float(sigmas[i])] * 2) for i, width in enumerate(widths)]
    gaussian_blur_(images, half_kernels(sigmas, 30))
    torch.testing.assert_close(images, torch.stack(expected), rtol=0, atol=CLOSE)


def test_a_blur_wider_than_the_view_is_cut_to_it():
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = images.mean()
    gaussian_blur_(images, half_kernels(torch.tensor([20.0]), 3))
    assert float(images.std()) < 0.1
    assert abs(float(images.mean() - before)) < 0.1


@pytest.mark.parametrize(("height", "width", "size"), [(55, 55, 32), (40, 71, 32), (20, 24, 33), (110, 97, 64)])
def test_crops_are_torchvisions(height, width, size):
    images = pictures(12, height, width)
    draw = drawn(MOCO, images, size)
    exact = crop_float32(images, draw.boxes, draw.flip, size) / 255
    for image, box, flip, ours in zip(images, draw.boxes.tolist(), draw.flip.tolist(), exact, strict=True):
        theirs = tv.resized_crop(image / 255, *box, [size, size], antialias=True)
        torch.testing.assert_close(ours, theirs.flip(2) if flip else theirs, rtol=0, atol=CLOSE)


def test_rounded_crops_are_pillows_within_one():
    images = pictures(20, 60, 75)
    for image, box in zip(images, drawn(MOCO, images, 32).boxes.tolist(), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        theirs = torch.from_numpy(crop_with_pillow(picture, box, False, 32).copy()).permute(2, 0, 1)
        ours = crop_uint8(image[None], box, 32)[0]
        assert int((ours.int() - theirs.int()).abs().max()) <= 1


def test_pillow_crops_mirror():
    picture = Image.fromarray(pictures(1, 30, 30)[0].permute(1, 2, 0).contiguous().numpy())
    straight, mirrored = (crop_with_pillow(picture, (2, 3, 20, 21), flip, 16) for flip in (False, True))
    assert np.array_equal(straight[:, ::-1], mirrored)


def by_torchvision(image: torch.Tensor, draw: AugmentParams, row: int, size: int) -> torch.Tensor:
    """One view in [0, 1], operation by operation."""
    view = tv.resized_crop(image / 255, *draw.boxes[row].tolist(), [size, size], antialias=True)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    if draw.flip[row]:
        view = tv.hflip(view)
    if draw.jitter[row]:
        for operation in draw.order[row].tolist():
            view = adjust[operation](view, float(draw.factors[row, operation]))
    if draw.gray[row]:
        view = tv.rgb_to_grayscale(view, 3)
    radius = int(kernel_radii(draw.sigma[row]))
    return tv.gaussian_blur(view, [2 * radius + 1] * 2, [float(draw.sigma[row])] * 2) if radius else view


@pytest.mark.parametrize("augmentation", [MOCO, STRONG], ids=["moco-v2", "ssl-small"])
@pytest.mark.parametrize("size", [24, 65])
def test_whole_views_are_torchvisions(augmentation, size):
    images = pictures(40, 90, 70)
    draw = drawn(augmentation, images, size)
    views = make_views(images, draw, size, float_crops=True, **RAW)
    expected = torch.stack([by_torchvision(image, draw, row, size) for row, image in enumerate(images)])
    difference = (views - expected).abs().flatten(1).amax(1)
    # A hue is undefined on gray: where a flat image's channels differ by a rounding, the turn can show it tenfold.
    assert float(difference.max()) < 2 * CLOSE
    assert int(draw.gray.sum()) > 2
    assert int((draw.sigma > 1 / 6).sum()) > 2


def test_rounded_views_are_the_exact_ones_but_for_the_rounding():
    images = pictures(40, 90, 70)
    draw = drawn(MOCO, images, 32)
    exact, rounded = (make_views(images, draw, 32, float_crops=e, **RAW) for e in (True, False))
    assert float((exact - rounded).abs().mean()) < 1 / 255
    plain = drawn(Augmentation(**AUGMENTATIONS["crop-flip"]), images, 32)
    exact, rounded = (make_views(images, plain, 32, float_crops=e, **RAW) for e in (True, False))
    assert float((exact - rounded).abs().max()) <= 1.001 / 255


@pytest.mark.parametrize("size", [31, 32, 64, 97])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_view_has_the_same_bits_in_any_batch(size, threads):
    images = pictures(41, 80, 75)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = make_views(images, drawn(STRONG, images, size), size, mean=MEAN, std=STD)
        for count in (1, 2, 7):
            order = torch.randperm(41, generator=torch.Generator().manual_seed(count))
            for index in order.split(count)[:12]:
                part = make_views(images[index], drawn(STRONG, images[index], size, index), size, mean=MEAN, std=STD)
                assert torch.equal(part, together[index])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_padding_is_never_seen():
    images = pictures(10, 40, 50)
    padded = torch.zeros(10, 3, 64, 64, dtype=torch.uint8)
    padded[:, :, :40, :50] = images
    draw = drawn(MOCO, images, 32)
    for exact in (False, True):
        views, others = (
            make_views(batch, draw, 32, float_crops=exact, mean=MEAN, std=STD) for batch in (images, padded)
        )
        torch.testing.assert_close(views, others, rtol=0, atol=CLOSE if exact else 0)


def test_the_way_of_the_workers_is_the_way_of_the_batch():
    images = pictures(12, 50, 60)
    draw = drawn(MOCO, images, 32)
    crops = [
        crop_with_pillow(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), box, flip, 32)
        for image, box, flip in zip(images, draw.boxes.tolist(), draw.flip.tolist(), strict=True)
    ]
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    theirs = make_views_from_crops(batch, draw, mean=MEAN, std=STD)
    ours = make_views(images, draw, 32, mean=MEAN, std=STD)
    assert float((theirs - ours).abs().mean()) < 0.005
    torch.testing.assert_close(
        make_views_from_crops(batch / 255, draw, mean=MEAN, std=STD), theirs, rtol=0, atol=5 * CLOSE
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_come_in_the_layout_and_type_asked_for(channels_last, dtype):
    images = pictures(5, 40, 40)
    draw = drawn(MOCO, images, 32)
    views = make_views(images, draw, 32, mean=MEAN, std=STD, dtype=dtype, channels_last=channels_last)
    assert views.dtype == dtype
    assert views.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert not views.is_inference()
    torch.testing.assert_close(views, make_views(images, draw, 32, mean=MEAN, std=STD).to(dtype), rtol=0, atol=0)


def test_plain_views_are_only_normalised():
    images = pictures(3, 20, 20)
    expected = transforms.functional.normalize(images / 255, MEAN, STD)
    torch.testing.assert_close(normalise_images(images, mean=MEAN, std=STD), expected, rtol=0, atol=CLOSE)


def test_the_plain_augmentation_is_the_central_square():
    images = pictures(2, 40, 60)
    draw = drawn(Augmentation(**AUGMENTATIONS["plain"]), images, 40)
    assert draw.boxes.tolist() == [[0, 10, 40, 40]] * 2
    views = make_views(images, draw, 40, **RAW)
    torch.testing.assert_close(views, images[:, :, :, 10:50] / 255, rtol=0, atol=CLOSE)


def test_boxes_spread_as_torchvisions_do():
    count, scale = 4000, (0.2, 1.0)
    height, width = 60, 150
    sides = {"heights": torch.full((count,), height), "widths": torch.full((count,), width)}
    ours = sample_augment_params(
        MOCO, size=32, seed=0, epoch=0, view=0, index=torch.arange(count), **sides
    ).boxes.double()
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    draws = [transforms.RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = torch.tensor(draws, dtype=torch.float64)
    for a, b in zip(ours.unbind(1), theirs.unbind(1), strict=True):
        levels = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        assert float((torch.quantile(a, levels) - torch.quantile(b, levels)).abs().max()) <= 0.04 * width
        values = torch.cat([a, b]).unique()
        below = [torch.searchsorted(sample.sort().values, values, right=True) for sample in (a, b)]
        assert (
            float((below[0] - below[1]).abs().max()) / count < 1.63 * (2 / count) ** 0.5
        )  # two-sample Kolmogorov-Smirnov at 1%


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    least=st.floats(0.01, 1),
    aspect=st.floats(1, 4),
    index=st.integers(0, 10**9),
)
def test_boxes_lie_inside(height, width, least, aspect, index):
    augmentation = Augmentation(crop_min=least, aspect=aspect)
    place = {"index": torch.tensor([index]), "heights": torch.tensor([height]), "widths": torch.tensor([width])}
    top, left, high, wide = (
        sample_augment_params(augmentation, size=8, seed=0, epoch=0, view=0, **place).boxes[0].tolist()
    )
    assert 0 <= top <= height - high
    assert 0 <= left <= width - wide
    assert high > 0
    assert wide > 0


def test_the_fallback_is_torchvisions():
    augmentation = Augmentation(crop_min=0.9, aspect=4 / 3)
    for height, width in ((10, 300), (300, 10), (7, 100)):
        place = {"index": torch.tensor([0]), "heights": torch.tensor([height]), "widths": torch.tensor([width])}
        box = sample_augment_params(augmentation, size=8, seed=0, epoch=0, view=0, **place).boxes[0].tolist()
        assert box == list(
            transforms.RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
        )


def test_draws_have_the_frequencies_and_ranges_of_the_settings():
    images = pictures(1, 40, 40).expand(5000, -1, -1, -1)
    draw = drawn(STRONG, images, 112)
    for share, asked in ((draw.flip, 0.5), (draw.jitter, 0.8), (draw.gray, 0.5), (draw.sigma > 0, 0.5)):
        assert abs(float(share.double().mean()) - asked) < 0.03
    factors = draw.factors[draw.jitter]
    assert torch.equal(draw.factors[~draw.jitter].unique(dim=0), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    for column, (low, high) in zip(factors.unbind(1), [(0.2, 1.8)] * 3 + [(-0.4, 0.4)], strict=True):
        assert low <= float(column.min()) < low + 0.01
        assert high - 0.01 < float(column.max()) <= high
    sigma = draw.sigma[draw.sigma > 0]
    assert 0.05 <= float(sigma.min()) < 0.06
    assert 0.99 < float(sigma.max()) <= 1
    assert torch.bincount(draw.order @ torch.tensor([64, 16, 4, 1])).count_nonzero() == 24
    assert torch.equal(draw.order.sort(1).values, torch.arange(4).expand(5000, 4))


def test_factors_are_never_negative():
    images = pictures(1, 40, 40).expand(500, -1, -1, -1)
    draw = drawn(Augmentation(jitter_p=1, brightness=2, contrast=2, saturation=2, hue=0.5), images, 32)
    assert float(draw.factors[:, :3].min()) >= 0


@settings(max_examples=25)
@given(index=st.lists(st.integers(0, 10**6), min_size=1, max_size=9), epoch=st.integers(0, 1000))
def test_a_draw_depends_on_the_image_alone(index, epoch):
    def draws(index: list[int]) -> AugmentParams:
        places = torch.tensor(index)
        return sample_augment_params(
            MOCO, size=32, seed=3, epoch=epoch, view=1, index=places, heights=places % 50 + 9, widths=places % 40 + 9
        )

    for row, place in enumerate(index):
        for together, alone in zip(draws(index), draws([place]), strict=True):
            assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_preset_makes_finite_views(name):
    images = pictures(8, 30, 36)
    augmentation = Augmentation(**AUGMENTATIONS[name])
    views = make_views(images, drawn(augmentation, images, 24), 24, mean=MEAN, std=STD)
    assert views.shape == (8, 3, 24, 24)
    assert bool(views.isfinite().all())


def test_limits_that_cross_are_refused():
    with pytest.raises(UsageError, match="--crop-max"):
        Augmentation(crop_min=0.5, crop_max=0.3)
    with pytest.raises(UsageError, match="--blur-max"):
        Augmentation(blur_min=3)
    with pytest.raises(UsageError, match="--hue"):
        Augmentation(hue=0.6)
