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
from lwcl.data.demo.noise2d import Field, random_between, random_direction, random_uniform, value_noise

IMAGE_SIZE = 64  # pixels of a side
TEXTURE_SEED = 20_211
LUMA_RANGE = (60.0, 196.0)  # of figure and ground, in luma (of 255)
MIN_LUMA_CONTRAST = 100.0  # the least difference of the two
BT601_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MAX_TINT = 15.0  # how far the channels are from gray, at most
MAX_GRAIN = 20.0  # the strongest noise
MAX_LIGHT_SLOPE = 0.2  # the strongest change of light from the middle to a side, twice over
PIXEL_AXIS = np.arange(IMAGE_SIZE, dtype=np.float32)
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


def draw_texture(index: int) -> npt.NDArray[np.uint8]:
    """Image `index`, uint8 (64, 64, 3); its class is `index` modulo the number of patterns."""
    random = RandomState([TEXTURE_SEED, index])
    pattern = list(CLASSES.values())[index % len(CLASSES)]
    pitch, sharpness = (
        random_between(random, 9, 18),
        random_between(random, 0.4, 1),
    )  # pixels; share of a tone's step in a pixel
    x, y = bend_coordinates(random, *random_coordinates(random, pitch))
    return paint_texture(random, np.clip(pattern(x, y, random) * (pitch * sharpness) + 0.5, 0, 1))


def random_coordinates(random: RandomState, pitch: float) -> tuple[Field, Field]:
    """The pixels' coordinates in units of `pitch` (pixels), turned and shifted at random."""
    cos, sin = random_direction(random)
    across, down = PIXEL_AXIS / pitch, PIXEL_AXIS[:, None] / pitch
    return cos * across - sin * down + random_between(random, 0, 16), sin * across + cos * down + random_between(
        random, 0, 16
    )


def bend_coordinates(random: RandomState, x: Field, y: Field) -> tuple[Field, Field]:
    """Coordinates after a smooth bend of at most a fifth."""
    bend = random_between(random, 0, 0.2)
    return x + bend * value_noise(x / 2, y / 2, random), y + bend * value_noise(x / 2, y / 2, random)


def paint_texture(random: RandomState, cover: Field) -> npt.NDArray[np.uint8]:
    """Figure and ground where `cover` is 1 and 0, in two colours, under a slope of light, with grain."""
    ground, figure = random_colour_pair(random)
    light = ground + cover[:, :, None] * (figure - ground)
    across, down = (
        random_between(random, -MAX_LIGHT_SLOPE, MAX_LIGHT_SLOPE),
        random_between(random, -MAX_LIGHT_SLOPE, MAX_LIGHT_SLOPE),
    )
    middled = PIXEL_AXIS / (IMAGE_SIZE / 2) - 1
    light *= (1 + across * middled + down * middled[:, None])[:, :, None]
    light += random_between(random, 0, MAX_GRAIN) * random_uniform(random, -1, 1, IMAGE_SIZE, IMAGE_SIZE, 1)
    pixels: npt.NDArray[np.uint8] = np.clip(light, 0, 255).astype(np.uint8)
    return pixels


def random_colour_pair(random: RandomState) -> Field:
    """Two colours (2, 3) whose luma differs by at least `CONTRAST`, either the lighter."""
    tones = [0.0, 0.0]
    while abs(tones[0] - tones[1]) < MIN_LUMA_CONTRAST:
        tones = [random_between(random, *LUMA_RANGE), random_between(random, *LUMA_RANGE)]
    tints = random_uniform(random, -MAX_TINT, MAX_TINT, 2, 3)
    luma = sum(weight * tints[:, channel] for channel, weight in enumerate(BT601_LUMA))
    return tints + (np.array(tones, dtype=np.float32) - luma)[:, None]


@functools.cache
def draw_textures(count: int) -> npt.NDArray[np.uint8]:
    """The first `count` images, uint8 (count, 64, 64, 3), kept in memory once drawn (about a millisecond each)."""
    return np.stack([draw_texture(index) for index in range(count)])
