"""Numbers that depend on where they are used: fixed, uniform, unrelated, and the same in whatever batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lwcl.rng import epoch_permutation, image_uniforms, splitmix64, step_seed

N = 20_000


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two samples, in standard deviations of what unrelated ones give."""
    return abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) * math.sqrt(a.numel())


def test_the_mixing_is_splitmix64():
    """The first outputs of the published generator from seed 1234567 (as in its C source's test vectors)."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + gamma * (i + 1)) % 2**64 for i in range(3)]
    bits = splitmix64(torch.tensor([state - 2**64 if state >= 2**63 else state for state in states]))
    assert [value % 2**64 for value in bits.tolist()] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_never_change():
    golden = [
        [0.21475211370900282, 0.7312041918961224, 0.9262928305075777],
        [0.9268166494112087, 0.8757251203551045, 0.5064504727329887],
    ]
    assert image_uniforms(1, 2, 1, torch.tensor([0, 41]), 3).tolist() == golden
    assert epoch_permutation(8, 1, 2).tolist() == [3, 5, 6, 7, 2, 4, 1, 0]
    assert step_seed(1, 2) == 7612879067803988792


def test_numbers_are_uniform():
    numbers = image_uniforms(0, 0, 0, torch.arange(N), 8)
    assert numbers.dtype == torch.float64
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.stack([torch.histc(column, 100, 0, 1) for column in numbers.unbind(1)])
    chi_square = ((counts - N / 100) ** 2 / (N / 100)).sum(1)
    assert float(chi_square.max()) < 99 + 4 * math.sqrt(2 * 99)
    ordered = numbers.flatten().sort().values
    distance = (ordered - (torch.arange(ordered.numel()) + 0.5) / ordered.numel()).abs().max()
    assert float(distance) * math.sqrt(ordered.numel()) < 1.63  # Kolmogorov-Smirnov at 1%


def test_neighbours_are_unrelated():
    here = image_uniforms(3, 5, 0, torch.arange(N), 4)
    assert correlation(here[:-1], here[1:]) < 4
    assert correlation(here[:, :-1], here[:, 1:]) < 4
    assert correlation(here, image_uniforms(3, 6, 0, torch.arange(N), 4)) < 4
    assert correlation(here, image_uniforms(3, 5, 1, torch.arange(N), 4)) < 4
    assert correlation(here, image_uniforms(4, 5, 0, torch.arange(N), 4)) < 4
    assert correlation(here, image_uniforms(5, 3, 0, torch.arange(N), 4)) < 4


def test_pairs_of_neighbours_fill_the_square():
    numbers = image_uniforms(0, 1, 0, torch.arange(N), 2)
    cells = (numbers[:, 0] * 16).long() * 16 + (numbers[:, 1] * 16).long()
    chi_square = ((torch.bincount(cells, minlength=256) - N / 256) ** 2 / (N / 256)).sum()
    assert float(chi_square) < 255 + 4 * math.sqrt(2 * 255)


@given(
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=20),
    seed=st.integers(0, 2**63 - 1),
    count=st.integers(1, 9),
)
def test_an_image_meets_the_same_numbers_in_any_batch(index, seed, count):
    together = image_uniforms(seed, 7, 1, torch.tensor(index), count)
    alone = [image_uniforms(seed, 7, 1, torch.tensor([i]), count + 3)[0, :count] for i in index]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_an_epoch_sees_every_image_once(n):
    order = epoch_permutation(n, 0, 0)
    assert sorted(order.tolist()) == list(range(n))


def test_epochs_differ_in_order():
    orders = [tuple(epoch_permutation(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_every_place_in_an_epoch_is_as_likely():
    orders = torch.stack([epoch_permutation(10, 0, epoch) for epoch in range(2000)])
    counts = torch.stack([torch.bincount(place, minlength=10) for place in orders.unbind(1)])
    assert float(((counts - 200) ** 2 / 200).sum()) < 81 + 4 * math.sqrt(2 * 81)


def test_step_seeds_differ_and_suit_torch():
    seeds = [step_seed(seed, step) for seed in range(10) for step in range(100)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(seeds[0])


def test_negative_and_huge_seeds_are_seeds():
    assert step_seed(-1, 0) != step_seed(1, 0)
    assert step_seed(2**64 + 5, 0) == step_seed(5, 0)
