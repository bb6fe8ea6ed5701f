"""Generated texture images, labelled by their pattern: a few minutes of contrastive training already help on them.

Every crop of a texture shows its class, as a crop of a photo often does. Rotation, pitch, bend, sharpness, thickness,
tones, tints, light and grain vary from image to image, independently of the class, and so does whether the foreground
is lighter. Of these, training views vary the tones, the tints, the sharpness and a little the pitch.
Image i is a function of i alone, the same on every machine (`noise2d.py`).
"""

import functools

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState

from lwcl.data.demo.noise2d import Field, random_between, random_direction, random_uniform, value_noise
from lwcl.data.demo.patterns import PATTERNS

IMAGE_SIZE = 64  # pixels per side
TEXTURE_SEED = 20_211
LUMA_RANGE = (60.0, 196.0)  # of foreground and background, in luma (of 255)
MIN_LUMA_CONTRAST = 100.0  # between the two
BT601_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MAX_TINT = 15.0  # maximum distance of a channel from grey
MAX_GRAIN = 20.0  # maximum noise amplitude
MAX_LIGHT_SLOPE = 0.2  # maximum relative change of light from the centre to an edge
PIXEL_AXIS = np.arange(IMAGE_SIZE, dtype=np.float32)


def draw_texture(index: int) -> npt.NDArray[np.uint8]:
    """Image `index`, uint8 (64, 64, 3); its class is `index` modulo the number of patterns."""
    random = RandomState([TEXTURE_SEED, index])
    pattern = list(PATTERNS.values())[index % len(PATTERNS)]
    pitch = random_between(random, 9, 18)  # pixels
    sharpness = random_between(random, 0.4, 1)  # fraction of an edge's step per pixel
    x, y = bend_coordinates(random, *random_coordinates(random, pitch))
    return paint_texture(random, np.clip(pattern(x, y, random) * (pitch * sharpness) + 0.5, 0, 1))


def random_coordinates(random: RandomState, pitch: float) -> tuple[Field, Field]:
    """The pixels' coordinates in units of `pitch` (pixels), randomly rotated and shifted."""
    cos, sin = random_direction(random)
    across, down = PIXEL_AXIS / pitch, PIXEL_AXIS[:, None] / pitch
    x = cos * across - sin * down + random_between(random, 0, 16)
    return x, sin * across + cos * down + random_between(random, 0, 16)


def bend_coordinates(random: RandomState, x: Field, y: Field) -> tuple[Field, Field]:
    """Coordinates after a smooth random distortion of at most 0.2 units."""
    bend = random_between(random, 0, 0.2)
    return x + bend * value_noise(x / 2, y / 2, random), y + bend * value_noise(x / 2, y / 2, random)


def paint_texture(random: RandomState, cover: Field) -> npt.NDArray[np.uint8]:
    """Foreground where `cover` is 1 and background where it is 0, with a light gradient and grain."""
    background, foreground = random_colour_pair(random)
    light = background + cover[:, :, None] * (foreground - background)
    across, down = (random_between(random, -MAX_LIGHT_SLOPE, MAX_LIGHT_SLOPE) for _ in range(2))
    centred = PIXEL_AXIS / (IMAGE_SIZE / 2) - 1
    light *= (1 + across * centred + down * centred[:, None])[:, :, None]
    light += random_between(random, 0, MAX_GRAIN) * random_uniform(random, -1, 1, IMAGE_SIZE, IMAGE_SIZE, 1)
    pixels: npt.NDArray[np.uint8] = np.clip(light, 0, 255).astype(np.uint8)
    return pixels


def random_colour_pair(random: RandomState) -> Field:
    """Two colours (2, 3) whose luma differs by at least `MIN_LUMA_CONTRAST`, in random order."""
    tones = [0.0, 0.0]
    while abs(tones[0] - tones[1]) < MIN_LUMA_CONTRAST:
        tones = [random_between(random, *LUMA_RANGE), random_between(random, *LUMA_RANGE)]
    tints = random_uniform(random, -MAX_TINT, MAX_TINT, 2, 3)
    luma = sum(weight * tints[:, channel] for channel, weight in enumerate(BT601_LUMA))
    return tints + (np.array(tones, dtype=np.float32) - luma)[:, None]


@functools.cache
def draw_textures(count: int) -> npt.NDArray[np.uint8]:
    """The first `count` images, uint8 (count, 64, 64, 3), cached in memory (about a millisecond each)."""
    return np.stack([draw_texture(index) for index in range(count)])
