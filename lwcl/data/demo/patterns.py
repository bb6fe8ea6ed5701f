"""Procedural patterns, from stripes to marble: the classes of the built-in textures.

A pattern is a function of the pixels' coordinates, in units of its pitch, and of a random stream for the variation
within the class. It returns a signed distance per pixel: above zero in the foreground, below zero in the background.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.random import RandomState

from lwcl.data.demo.noise2d import (
    PERIOD,
    Field,
    distance_to_integer,
    lattice_cell,
    neighbouring_cells,
    parabolic_wave,
    pixelwise_max,
    pixelwise_min,
    random_between,
    random_direction,
    random_uniform,
    signed_distance_to_integer,
    turbulence,
    value_noise,
    vector_length,
    worley_points,
)

Pattern = Callable[[Field, Field, RandomState], Field]
PATTERNS: dict[str, Pattern] = {}  # by class name, in alphabetical order
ROOT3 = math.sqrt(3)


def pattern(function: Pattern) -> Pattern:
    """Registers a pattern as the class of its name."""
    PATTERNS[function.__name__] = function
    return function


@pattern
def arcs(x: Field, y: Field, random: RandomState) -> Field:
    """Quarter circles in randomly rotated tiles (Truchet)."""
    turned = random.random_sample((PERIOD, PERIOD)) < 0.5
    i, j, u, v = lattice_cell(x, y)
    u = np.where(turned[j, i], 1 - u, u)
    distance: Field = random_between(random, 0.1, 0.18) - np.abs(
        pixelwise_min(vector_length(u, v), vector_length(1 - u, 1 - v)) - 0.5
    )
    return distance


@pattern
def basket(x: Field, y: Field, random: RandomState) -> Field:
    """Three horizontal and three vertical strands, alternating."""
    across = (np.floor(x) + np.floor(y)) % 2 == 0
    strand = np.where(across, distance_to_integer(3 * x), distance_to_integer(3 * y)) / 3
    return pixelwise_min(strand, np.where(across, distance_to_integer(y), distance_to_integer(x))) - random_between(
        random, 0.035, 0.06
    )


@pattern
def bricks(x: Field, y: Field, random: RandomState) -> Field:
    """Rows of bricks, every other row shifted by half a brick."""
    row = np.floor(2 * y)
    return pixelwise_min(distance_to_integer(x + row / 2), distance_to_integer(2 * y) / 2) - random_between(
        random, 0.03, 0.06
    )


@pattern
def bubbles(x: Field, y: Field, random: RandomState) -> Field:
    """Scattered discs of many sizes."""
    points = worley_points(x, y, random, 0.6)
    return 0.12 + 0.22 * points.tone - points.nearest


@pattern
def camouflage(x: Field, y: Field, random: RandomState) -> Field:
    """Blobs with smooth edges."""
    return 0.3 * (value_noise(1.6 * x, 1.6 * y, random) + random_between(random, -0.25, 0.1))


@pattern
def checkers(x: Field, y: Field, random: RandomState) -> Field:
    """The squares of a chessboard."""
    a, b = distance_to_integer(x) - 0.25, distance_to_integer(y) - 0.25
    return pixelwise_min(np.abs(a), np.abs(b)) * np.sign(a * b)


@pattern
def clouds(x: Field, y: Field, random: RandomState) -> Field:
    """Large blobs with frayed edges."""
    return 0.35 * turbulence(x / 2.5, y / 2.5, random)


@pattern
def cracks(x: Field, y: Field, random: RandomState) -> Field:
    """The borders of the Voronoi cells of scattered points."""
    points = worley_points(x, y, random, 0.9)
    return random_between(random, 0.06, 0.1) - (points.second - points.nearest)


@pattern
def crosses(x: Field, y: Field, random: RandomState) -> Field:
    """Crosses in a square lattice."""
    a, b = distance_to_integer(x), distance_to_integer(y)
    return pixelwise_min(0.36 - pixelwise_max(a, b), random_between(random, 0.09, 0.13) - pixelwise_min(a, b))


@pattern
def dots(x: Field, y: Field, random: RandomState) -> Field:
    """Equal discs in a square lattice."""
    return random_between(random, 0.24, 0.34) - vector_length(
        signed_distance_to_integer(x), signed_distance_to_integer(y)
    )


@pattern
def fur(x: Field, y: Field, random: RandomState) -> Field:
    """Long streaks with blurred ends."""
    return 0.25 * (value_noise(x / 2, 4 * y, random) + random_between(random, -0.2, 0.2))


@pattern
def grid(x: Field, y: Field, random: RandomState) -> Field:
    """Equally spaced horizontal and vertical lines."""
    return random_between(random, 0.07, 0.12) - pixelwise_min(distance_to_integer(x), distance_to_integer(y))


@pattern
def honeycomb(x: Field, y: Field, random: RandomState) -> Field:
    """Hexagons with walls between them."""

    def from_middle(x: Field, y: Field) -> Field:
        a, b = distance_to_integer(x), ROOT3 * distance_to_integer(y / ROOT3)
        return pixelwise_max(a, a / 2 + b * ROOT3 / 2)

    return random_between(random, 0.4, 0.45) - pixelwise_min(from_middle(x, y), from_middle(x + 0.5, y + ROOT3 / 2))


@pattern
def marble(x: Field, y: Field, random: RandomState) -> Field:
    """Thin, winding veins."""
    return random_between(random, 0.04, 0.08) - distance_to_integer(x / 2 + 0.7 * turbulence(x / 2, y / 2, random))


@pattern
def mosaic(x: Field, y: Field, random: RandomState) -> Field:
    """Voronoi cells of many tones."""
    points = worley_points(1.3 * x, 1.3 * y, random, 0.9)
    return pixelwise_min(0.6 * (points.tone - 0.5), points.second - points.nearest - 0.03)


@pattern
def plaid(x: Field, y: Field, random: RandomState) -> Field:
    """Broad crossing bands; where only one of them lies, the distance is 0, a tone between the two."""
    wide = random_between(random, 0.2, 0.28)
    a, b = wide - distance_to_integer(x), wide - distance_to_integer(y)
    return np.clip(pixelwise_min(a, b), 0, None) + np.clip(pixelwise_max(a, b), None, 0)


@pattern
def rings(x: Field, y: Field, random: RandomState) -> Field:
    """Circles in a square lattice."""
    distance: Field = random_between(random, 0.06, 0.09) - np.abs(
        vector_length(signed_distance_to_integer(x), signed_distance_to_integer(y)) - 0.33
    )
    return distance


@pattern
def scales(x: Field, y: Field, random: RandomState) -> Field:
    """Rows of discs, each overlapping the one behind it."""
    first = np.floor(2 * y)
    rim = np.full_like(x, 9)
    for step in (2, 1, 0, -1):  # from the back to the front
        row = (first + step) / 2
        inside = 0.56 - vector_length(signed_distance_to_integer(x + row), y - row)
        rim = np.where(inside > 0, inside, rim)
    return random_between(random, 0.06, 0.1) - rim


@pattern
def straw(x: Field, y: Field, random: RandomState) -> Field:
    """Scattered short strokes of all directions."""
    middles = random_uniform(random, 0.2, 0.8, 2, PERIOD, PERIOD)
    turns = np.array([random_direction(random) for _ in range(PERIOD**2)], np.float32).T.reshape(2, PERIOD, PERIOD)
    depth = np.full_like(x, -9)
    for i, j, across, down in neighbouring_cells(x, y):
        a, b, cos, sin = across + middles[0, j, i], down + middles[1, j, i], turns[0, j, i], turns[1, j, i]
        stroke = pixelwise_min(0.6 - np.abs(a * cos + b * sin), 0.08 - np.abs(a * sin - b * cos))
        depth = pixelwise_max(depth, stroke)
    return depth


@pattern
def stripes(x: Field, y: Field, random: RandomState) -> Field:
    """Straight stripes."""
    return random_between(random, 0.15, 0.3) - distance_to_integer(x)


@pattern
def triangles(x: Field, y: Field, random: RandomState) -> Field:
    """Equilateral triangles, alternately light and dark."""
    height = 2 * y / ROOT3
    a, b, c = (
        signed_distance_to_integer(height),
        signed_distance_to_integer(x - height / 2),
        signed_distance_to_integer(x + height / 2),
    )
    return pixelwise_min(np.abs(a), np.abs(b), np.abs(c)) * np.sign(a * b * c)


@pattern
def waves(x: Field, y: Field, random: RandomState) -> Field:
    """Wavy bands."""
    return random_between(random, 0.13, 0.25) - distance_to_integer(1.3 * y + 0.35 * parabolic_wave(x / 1.5))


@pattern
def wood(x: Field, y: Field, random: RandomState) -> Field:
    """Bands that merge and part like the grain around a knot."""
    return 0.5 * (
        random_between(random, 0.2, 0.3) - distance_to_integer(2 * y + 2.2 * value_noise(x / 5, y / 1.5, random))
    )


@pattern
def zigzag(x: Field, y: Field, random: RandomState) -> Field:
    """Bands with sharp turns."""
    return 0.6 * (
        random_between(random, 0.18, 0.28) - distance_to_integer(1.4 * y + 1.6 * distance_to_integer(x / 1.2))
    )
