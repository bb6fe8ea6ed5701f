"""Two-dimensional procedural noise: lattice distances, waves, value noise and Worley points, in float32.

Only sums, products, quotients, square roots and rounding are used, whose results IEEE 754 defines to the last bit, and
uniform numbers of RandomState, whose stream is frozen: images made with them are the same on every machine.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState

Field = npt.NDArray[np.floating[Any]]  # float32: one value per pixel
IntField = npt.NDArray[np.int32]
PERIOD = 16  # noise and Worley points repeat after this many units


def random_between(random: RandomState, low: float, high: float) -> float:
    """A uniform number in [low, high)."""
    return low + (high - low) * float(random.random_sample())


def random_uniform(random: RandomState, low: float, high: float, *shape: int) -> Field:
    """Uniform numbers in [low, high), of this shape."""
    return (low + (high - low) * random.random_sample(shape)).astype(np.float32)


def random_direction(random: RandomState) -> tuple[float, float]:
    """A random unit vector, by rejection sampling in the disc."""
    while True:
        x, y = random_between(random, -1, 1), random_between(random, -1, 1)
        distance = math.sqrt(x * x + y * y)
        if 0.1 < distance < 1:
            return x / distance, y / distance


def signed_distance_to_integer(value: Field) -> Field:
    """The signed distance from the nearest integer, -0.5 to 0.5."""
    return value - np.rint(value)


def distance_to_integer(value: Field) -> Field:
    """The distance to the nearest integer, 0 to 0.5."""
    return np.abs(signed_distance_to_integer(value))


def vector_length(x: Field, y: Field) -> Field:
    """The lengths of the vectors (x, y)."""
    distance: Field = np.sqrt(x * x + y * y)
    return distance


def pixelwise_min(first: Field, *others: Field) -> Field:
    """The minimum per pixel."""
    return functools.reduce(np.minimum, others, first)


def pixelwise_max(first: Field, *others: Field) -> Field:
    """The maximum per pixel."""
    return functools.reduce(np.maximum, others, first)


def parabolic_wave(value: Field) -> Field:
    """A wave of parabolas that resembles a sine of period 1, -1 to 1."""
    phase = signed_distance_to_integer(value)
    wave: Field = phase * (8 - 16 * np.abs(phase))
    return wave


def lattice_cell(x: Field, y: Field) -> tuple[IntField, IntField, Field, Field]:
    """The unit cell that each point is in, as column and row of a table, and its position in the cell, 0 to 1."""
    left, low = np.floor(x), np.floor(y)
    return left.astype(np.int32) % PERIOD, low.astype(np.int32) % PERIOD, x - left, y - low


def value_noise(x: Field, y: Field, random: RandomState) -> Field:
    """Value noise of feature size 1, -1 to 1: a random table, smoothly interpolated."""
    table = random_uniform(random, -1, 1, PERIOD, PERIOD)
    i, j, u, v = lattice_cell(x, y)
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    after, above = (i + 1) % PERIOD, (j + 1) % PERIOD
    first = table[j, i] * (1 - u) + table[j, after] * u
    second = table[above, i] * (1 - u) + table[above, after] * u
    return first * (1 - v) + second * v


def turbulence(x: Field, y: Field, random: RandomState) -> Field:
    """Fractal noise of four octaves, each with half the feature size and 0.6 of the amplitude of the previous one."""
    total, amplitude = value_noise(x, y, random), 1.0
    for frequency in (2, 4, 8):
        amplitude *= 0.6
        total = total + amplitude * value_noise(x * frequency, y * frequency, random)
    return total


def neighbouring_cells(x: Field, y: Field) -> Iterator[tuple[IntField, IntField, Field, Field]]:
    """The 3 x 3 unit cells around each point: column and row of a table, and the offset of the cell's corner."""
    i, j, u, v = lattice_cell(x, y)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            yield (i + across) % PERIOD, (j + down) % PERIOD, across - u, down - v


class WorleyPoints(NamedTuple):
    """Random points, one per unit cell, as seen from each pixel."""

    nearest: Field  # distance to the nearest point (F1)
    second: Field  # distance to the second nearest (F2)
    tone: Field  # a random number of the nearest point, 0 to 1


def worley_points(x: Field, y: Field, random: RandomState, jitter: float) -> WorleyPoints:
    """Points at most `jitter` / 2 away from the centre of their cell (Worley, 1996)."""
    points = random_uniform(random, 0.5 - jitter / 2, 0.5 + jitter / 2, 2, PERIOD, PERIOD)
    tones = random_uniform(random, 0, 1, PERIOD, PERIOD)
    nearest = second = tone = np.full_like(x, 9)
    for i, j, across, down in neighbouring_cells(x, y):
        distance = vector_length(across + points[0, j, i], down + points[1, j, i])
        second = pixelwise_min(second, pixelwise_max(nearest, distance))
        tone = np.where(distance < nearest, tones[j, i], tone)
        nearest = pixelwise_min(nearest, distance)
    return WorleyPoints(nearest, second, tone)
