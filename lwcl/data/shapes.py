"""Ten kinds of drawn figures, labelled: colour, place, size, turn, background and clutter do not tell the class.

Random features are weak on it, since the pixels are mostly nuisance; a learner that is invariant to crops, flips,
colour and blur can find the figure. Image i is a function of i alone (numpy's RandomState, whose streams are
frozen).
"""

import colorsys
import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64  # pixels of a side
FINE = 2  # drawn this much larger, then averaged
SEED = 20_211
CONTRAST = 70.0  # least difference in luma (of 255) between figure and background: grey images must show the figure
AXIS = np.linspace(-1, 1, SIZE, dtype=np.float32)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
Points = npt.NDArray[np.float64]  # (n, 2): x, y in units of the figure's radius


class Figure(NamedTuple):
    """An outline and, in some, a hole."""

    outline: Points
    hole: Points | None = None


def polar(radii: Points, start: float = 0.0) -> Points:
    """The closed curve with these radii at equal angles."""
    angles = start + np.linspace(0, 2 * math.pi, len(radii), endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def heart() -> Points:
    """The well-known curve of sines and cosines."""
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 16


def plus(arm: float) -> Points:
    """A cross whose arms are `2 * arm` wide."""
    corner = [(arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1)]
    return np.array(corner + [(-x, -y) for x, y in corner], dtype=np.float64)


CIRCLE = polar(np.ones(48))
FLOWER = polar(0.72 + 0.28 * np.cos(5 * np.linspace(0, 2 * math.pi, 60, endpoint=False)))
ARROW = [(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)]
BOLT = [(0.25, -1), (-0.65, 0.15), (-0.08, 0.15), (-0.3, 1), (0.65, -0.25), (0.08, -0.25), (0.6, -1)]
FIGURES = {
    "arrow": Figure(np.array(ARROW, dtype=np.float64)),
    "bolt": Figure(np.array(BOLT, dtype=np.float64)),
    "crescent": Figure(CIRCLE, CIRCLE * 0.85 + (0.45, 0)),
    "cross": Figure(plus(0.3)),
    "disc": Figure(CIRCLE * 0.85),
    "flower": Figure(FLOWER),
    "heart": Figure(heart()),
    "ring": Figure(CIRCLE, CIRCLE * 0.55),
    "star": Figure(polar(np.tile([1.0, 0.42], 5))),
    "triangle": Figure(polar(np.ones(3))),
}


def draw(index: int) -> npt.NDArray[np.uint8]:
    """Image `index`, uint8 (64, 64, 3); its class is `index` modulo the number of figures."""
    random = RandomState([SEED, index])
    figure = list(FIGURES.values())[index % len(FIGURES)]
    ground, paint = contrasting_colours(random)
    canvas = textured(random, ground, 40).resize((SIZE * FINE, SIZE * FINE), Image.Resampling.NEAREST)
    clutter(random, canvas)
    image = canvas.reduce(FINE)
    image.paste(textured(random, paint, 25), mask=placed(random, figure).reduce(FINE))
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.8)))
    noise = random.standard_normal((SIZE, SIZE, 1)).astype(np.float32) * np.float32(random.uniform(2, 12))
    pixels: npt.NDArray[np.float32] = np.asarray(image) + noise
    return pixels.clip(0, 255).astype(np.uint8)


def contrasting_colours(random: RandomState) -> tuple[Points, Points]:
    """Two colours (0..255) of any hue whose luma differs by at least `CONTRAST`."""
    while True:
        first, second = (
            np.array(colorsys.hsv_to_rgb(*random.uniform((0, 0, 0.1), (1, 0.9, 1)))) * 255 for _ in range(2)
        )
        if abs((first - second) @ LUMA) >= CONTRAST:
            return first, second


def textured(random: RandomState, colour: Points, strength: float) -> Image.Image:
    """A small image of this colour with a ramp, blotches, and waves of random direction and pitch."""
    down, across, turn, phase = random.uniform(-math.pi, math.pi, 4)
    ramp, waving, blotching = random.uniform(0, strength, 3) * (0.3, 0.5 * random.randint(2), 0.5)
    pitch = random.uniform(4, 25)
    blotches = Image.fromarray(random.standard_normal((6, 6)).astype(np.float32))
    light = blotching * np.asarray(blotches.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    light += ramp * down * AXIS[:, None] + ramp * across * AXIS
    if waving:
        light += waving * np.sin(pitch * (math.cos(turn) * AXIS[:, None] + math.sin(turn) * AXIS) + phase)
    tint = (1 + random.uniform(-0.3, 0.3, 3)).astype(np.float32)
    return Image.fromarray((light[:, :, None] * tint + colour.astype(np.float32)).clip(0, 255).astype(np.uint8))


def clutter(random: RandomState, canvas: Image.Image) -> None:
    """Draw a few strokes and specks of any colour: parts of figures everywhere, no figure anywhere."""
    pen = ImageDraw.Draw(canvas)
    for _ in range(random.randint(3, 9)):
        colour = tuple(int(value) for value in random.randint(0, 256, 3))
        x, y = random.uniform(0, canvas.width, 2)
        reach = random.uniform(-0.25, 0.25, 2) * canvas.width
        if random.randint(2):
            pen.line((x, y, x + reach[0], y + reach[1]), fill=colour, width=int(random.randint(1, 6)))
        else:
            width, height = np.abs(reach) / 3
            pen.ellipse((x - width, y - height, x + width, y + height), fill=colour)


def placed(random: RandomState, figure: Figure) -> Image.Image:
    """The figure's mask (0 or 255) at a random turn, size, slant and place, wholly inside or nearly so."""
    radius = random.uniform(0.2, 0.4) * SIZE * FINE
    turn = random.uniform(0, 2 * math.pi)
    squeeze = np.diag([1.0, random.uniform(0.75, 1.0)])
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = random.uniform(0.9 * radius, SIZE * FINE - 0.9 * radius, 2)
    mask = Image.new("L", (SIZE * FINE, SIZE * FINE))
    pen = ImageDraw.Draw(mask)
    for points, fill in ((figure.outline, 255), (figure.hole, 0)):
        if points is not None:
            corners = points @ squeeze @ rotation.T * radius + centre
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=fill)
    return mask


@functools.cache
def drawn(count: int) -> npt.NDArray[np.uint8]:
    """The first `count` images, uint8 (count, 64, 64, 3), kept in memory once drawn (under a millisecond each)."""
    return np.stack([draw(index) for index in range(count)])
