"""Images that one pattern fills, labelled by it, drawn: on them a few minutes of contrastive training show something.

Every crop of a texture shows its class, as a crop of a photo often does. Turn, pitch, bend, sharpness, thickness,
tones, tints, light and grain differ from image to image and say nothing of the class; nor does which of the tones is
the figure's. Of these the views of training vary the tones, the tints, the sharpness and a little the pitch.
Image i is a function of i alone, the same on every machine (`plane.py`).
"""

import functools

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState

from lwcl.data.demo import patterns
from lwcl.data.demo.noise2d import Field, between, direction, noise, uniform

SIZE = 64  # pixels of a side
SEED = 20_211
TONES = (60.0, 196.0)  # of figure and ground, in luma (of 255)
CONTRAST = 100.0  # the least difference of the two
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
TINT = 15.0  # how far the channels are from gray, at most
GRAIN = 20.0  # the strongest noise
SLOPE = 0.2  # the strongest change of light from the middle to a side, twice over
AXIS = np.arange(SIZE, dtype=np.float32)
CLASSES: dict[str, patterns.Pattern] = {
    pattern.__name__: pattern
    for pattern in (
        patterns.arcs,
        patterns.basket,
        patterns.bricks,
        patterns.bubbles,
        patterns.camouflage,
        patterns.checkers,
        patterns.clouds,
        patterns.cracks,
        patterns.crosses,
        patterns.dots,
        patterns.fur,
        patterns.grid,
        patterns.honeycomb,
        patterns.marble,
        patterns.mosaic,
        patterns.plaid,
        patterns.rings,
        patterns.scales,
        patterns.straw,
        patterns.stripes,
        patterns.triangles,
        patterns.waves,
        patterns.wood,
        patterns.zigzag,
    )
}


def draw(index: int) -> npt.NDArray[np.uint8]:
    """Image `index`, uint8 (64, 64, 3); its class is `index` modulo the number of patterns."""
    random = RandomState([SEED, index])
    pattern = list(CLASSES.values())[index % len(CLASSES)]
    pitch, sharpness = between(random, 9, 18), between(random, 0.4, 1)  # pixels; share of a tone's step in a pixel
    x, y = bent(random, *placed(random, pitch))
    return painted(random, np.clip(pattern(x, y, random) * (pitch * sharpness) + 0.5, 0, 1))


def placed(random: RandomState, pitch: float) -> tuple[Field, Field]:
    """The pixels' coordinates in units of `pitch` (pixels), turned and shifted at random."""
    cos, sin = direction(random)
    across, down = AXIS / pitch, AXIS[:, None] / pitch
    return cos * across - sin * down + between(random, 0, 16), sin * across + cos * down + between(random, 0, 16)


def bent(random: RandomState, x: Field, y: Field) -> tuple[Field, Field]:
    """Coordinates after a smooth bend of at most a fifth."""
    bend = between(random, 0, 0.2)
    return x + bend * noise(x / 2, y / 2, random), y + bend * noise(x / 2, y / 2, random)


def painted(random: RandomState, cover: Field) -> npt.NDArray[np.uint8]:
    """Figure and ground where `cover` is 1 and 0, in two colours, under a slope of light, with grain."""
    ground, figure = two_colours(random)
    light = ground + cover[:, :, None] * (figure - ground)
    across, down = between(random, -SLOPE, SLOPE), between(random, -SLOPE, SLOPE)
    middled = AXIS / (SIZE / 2) - 1
    light *= (1 + across * middled + down * middled[:, None])[:, :, None]
    light += between(random, 0, GRAIN) * uniform(random, -1, 1, SIZE, SIZE, 1)
    pixels: npt.NDArray[np.uint8] = np.clip(light, 0, 255).astype(np.uint8)
    return pixels


def two_colours(random: RandomState) -> Field:
    """Two colours (2, 3) whose luma differs by at least `CONTRAST`, either the lighter."""
    tones = [0.0, 0.0]
    while abs(tones[0] - tones[1]) < CONTRAST:
        tones = [between(random, *TONES), between(random, *TONES)]
    tints = uniform(random, -TINT, TINT, 2, 3)
    luma = sum(weight * tints[:, channel] for channel, weight in enumerate(LUMA))
    return tints + (np.array(tones, dtype=np.float32) - luma)[:, None]


@functools.cache
def drawn(count: int) -> npt.NDArray[np.uint8]:
    """The first `count` images, uint8 (count, 64, 64, 3), kept in memory once drawn (about a millisecond each)."""
    return np.stack([draw(index) for index in range(count)])
