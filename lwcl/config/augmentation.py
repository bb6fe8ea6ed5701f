"""Augmentation of a view: one frozen settings class, and named presets with the source of every number."""

from lwcl.errors import UsageError
from lwcl.settings import Settings, setting

GROUP = "Views"


class Augmentation(Settings):
    """Random augmentation of an image, in this order: crop, flip, colour jitter, grayscale, blur.

    `Augmentation()` is the center crop: the short side scaled to the view, the central square taken.
    Sigmas are in pixels of a 224 px view; a view of `size` px is blurred with sigma * size / 224, so that a blur means
    the same at every size.
    """

    crop_min: float = setting(1.0, "smallest crop, as a share of the image area", above=0, at_most=1, group=GROUP)
    crop_max: float = setting(1.0, "largest crop, as a share of the image area", above=0, at_most=1, group=GROUP)
    aspect: float = setting(
        1.0,
        "aspect ratios of crops are sampled from [1 / x, x]",
        at_least=1,
        at_most=4,
        group=GROUP,
    )
    flip_p: float = setting(0.0, "probability of a horizontal flip", at_least=0, at_most=1, group=GROUP)
    jitter_p: float = setting(
        0.0, "probability of colour jitter (brightness, contrast, saturation, hue)", at_least=0, at_most=1, group=GROUP
    )
    brightness: float = setting(
        0.0, "brightness jitter: factor 1 - this to 1 + this", at_least=0, at_most=4, group=GROUP
    )
    contrast: float = setting(0.0, "contrast jitter: factor 1 - this to 1 + this", at_least=0, at_most=4, group=GROUP)
    saturation: float = setting(
        0.0, "saturation jitter: factor 1 - this to 1 + this", at_least=0, at_most=4, group=GROUP
    )
    hue: float = setting(
        0.0, "hue jitter: largest shift, as a share of the hue circle", at_least=0, at_most=0.5, group=GROUP
    )
    gray_p: float = setting(0.0, "probability of grayscale", at_least=0, at_most=1, group=GROUP)
    blur_p: float = setting(0.0, "probability of a Gaussian blur", at_least=0, at_most=1, group=GROUP)
    blur_min: float = setting(0.1, "smallest blur sigma, in pixels of a 224 px view", above=0, at_most=56, group=GROUP)
    blur_max: float = setting(2.0, "largest blur sigma, in pixels of a 224 px view", above=0, at_most=56, group=GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        for low, high in (("crop_min", "crop_max"), ("blur_min", "blur_max")):
            smallest, largest = getattr(self, low), getattr(self, high)
            if smallest > largest:
                flags = [f"--{name.replace('_', '-')}" for name in (low, high)]
                raise UsageError(
                    f"{flags[0]} is {smallest:g}, above {flags[1]} ({largest:g}).",
                    remedy=f"Give {flags[0]} at most {largest:g}, or raise {flags[1]}.",
                )


# torchvision's RandomResizedCrop(scale=(0.08, 1), ratio=(3/4, 4/3)) and a flip: the views of CompRess, Koohpayegani
# et al. 2020 (arXiv 2010.14713), and of the training pass of linear evaluations.
CROP_FLIP = {"crop_min": 0.08, "crop_max": 1.0, "aspect": 4 / 3, "flip_p": 0.5}

# MoCo v2, Chen et al. 2020 (arXiv 2003.04297), `--aug-plus`: also the views of SEED, DisCo and light-moco.
MOCO_V2 = {
    **CROP_FLIP,
    "crop_min": 0.2,
    "jitter_p": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "gray_p": 0.2,
    "blur_p": 0.5,
    "blur_min": 0.1,
    "blur_max": 2.0,
}

AUGMENTATIONS: dict[str, dict[str, float]] = {
    "moco-v2": MOCO_V2,
    # Shi et al. 2022 (arXiv 2107.14762), published command: jitter (0.8, 0.8, 0.8, 0.4) times cj = 1, gray 0.5; the
    # rest is MoCo v2.
    "ssl-small": {**MOCO_V2, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.4, "gray_p": 0.5},
    "crop-flip": CROP_FLIP,
    # Ours, for digits and letters: a mirrored or half-cropped character is another character, and colour has no
    # meaning. The crops keep the strokes, and the blur reaches half a pixel at 28 px.
    "digits": {
        "crop_min": 0.6,
        "crop_max": 1.0,
        "aspect": 4 / 3,
        "jitter_p": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "blur_p": 0.5,
        "blur_min": 0.1,
        "blur_max": 4.0,
    },
    # The center crop of evaluation: short side scaled to the view, central square taken.
    "plain": {},
}
