"""Arithmetic of patterns in the plane: distances, waves, noise and scattered points, of coordinates in float32.

Only sums, products, quotients, square roots and rounding are used, which IEEE 754 fixes to the last bit, and uniform
numbers of RandomState, whose stream is frozen: what is drawn with them is the same on every machine.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState

Field = npt.NDArray[np.floating[Any]]  # float32: a value for each pixel
IntField = npt.NDArray[np.int32]
PERIOD = 16  # noise and scattered points repeat after this many units


def random_between(random: RandomState, low: float, high: float) -> float:
    """A uniform number of [low, high)."""
    return low + (high - low) * float(random.random_sample())


def random_uniform(random: RandomState, low: float, high: float, *shape: int) -> Field:
    """Uniform numbers of [low, high) in this shape."""
    return (low + (high - low) * random.random_sample(shape)).astype(np.float32)


def random_direction(random: RandomState) -> tuple[float, float]:
    """A unit vector of any direction: that of a point in the disc."""
    while True:
        x, y = random_between(random, -1, 1), random_between(random, -1, 1)
        far = math.sqrt(x * x + y * y)
        if 0.1 < far < 1:
            return x / far, y / far


def signed_distance_to_integer(value: Field) -> Field:
    """The way from the nearest whole number, -0.5 to 0.5."""
    return value - np.rint(value)


def distance_to_integer(value: Field) -> Field:
    """The distance to the nearest whole number, 0 to 0.5."""
    return np.abs(signed_distance_to_integer(value))


def vector_length(x: Field, y: Field) -> Field:
    """The lengths of the vectors (x, y)."""
    far: Field = np.sqrt(x * x + y * y)
    return far


def pixelwise_min(first: Field, *others: Field) -> Field:
    """The least of the values of each pixel."""
    return functools.reduce(np.minimum, others, first)


def pixelwise_max(first: Field, *others: Field) -> Field:
    """The greatest of the values of each pixel."""
    return functools.reduce(np.maximum, others, first)


def parabolic_wave(value: Field) -> Field:
    """Parabolas that look like a sine of period 1, -1 to 1."""
    part = signed_distance_to_integer(value)
    found: Field = part * (8 - 16 * np.abs(part))
    return found


def lattice_cell(x: Field, y: Field) -> tuple[IntField, IntField, Field, Field]:
    """The unit square that each point is in, as column and row of a table, and the point's place in it, 0 to 1."""
    left, low = np.floor(x), np.floor(y)
    return left.astype(np.int32) % PERIOD, low.astype(np.int32) % PERIOD, x - left, y - low


def value_noise(x: Field, y: Field, random: RandomState) -> Field:
    """Smooth random hills and hollows of width 1, -1 to 1 (value noise: a random table, interpolated)."""
    table = random_uniform(random, -1, 1, PERIOD, PERIOD)
    i, j, u, v = lattice_cell(x, y)
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    after, above = (i + 1) % PERIOD, (j + 1) % PERIOD
    first = table[j, i] * (1 - u) + table[j, after] * u
    second = table[above, i] * (1 - u) + table[above, after] * u
    return first * (1 - v) + second * v


def turbulence(x: Field, y: Field, random: RandomState) -> Field:
    """Noise of four widths, each half as wide and 0.6 as high as the one before."""
    total, height = value_noise(x, y, random), 1.0
    for finer in (2, 4, 8):
        height *= 0.6
        total = total + height * value_noise(x * finer, y * finer, random)
    return total


def neighbouring_cells(x: Field, y: Field) -> Iterator[tuple[IntField, IntField, Field, Field]]:
    """The nine unit squares about each point: column and row of a table, and the way to the square's corner."""
    i, j, u, v = lattice_cell(x, y)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            yield (i + across) % PERIOD, (j + down) % PERIOD, across - u, down - v


class WorleyPoints(NamedTuple):
    """Random points, one in each unit square, as seen from each pixel."""

    nearest: Field  # the distance to the nearest
    following: Field  # the distance to the next one
    tone: Field  # a random number of the nearest, 0 to 1


def worley_points(x: Field, y: Field, random: RandomState, jitter: float) -> WorleyPoints:
    """Points that are at most half of `jitter` off the middle of their square (Worley, 1996)."""
    points = random_uniform(random, 0.5 - jitter / 2, 0.5 + jitter / 2, 2, PERIOD, PERIOD)
    tones = random_uniform(random, 0, 1, PERIOD, PERIOD)
    nearest = following = tone = np.full_like(x, 9)
    for i, j, across, down in neighbouring_cells(x, y):
        far = vector_length(across + points[0, j, i], down + points[1, j, i])
        following = pixelwise_min(following, pixelwise_max(nearest, far))
        tone = np.where(far < nearest, tones[j, i], tone)
        nearest = pixelwise_min(nearest, far)
    return WorleyPoints(nearest, following, tone)
