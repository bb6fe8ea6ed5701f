"""The order of images in an epoch: a function of (seed, epoch), whichever part of it is asked for."""

import pytest
import torch

from lwcl.data import order
from lwcl.data.order import BLOCKS_PER_WINDOW, BlockOrder, epoch_order
from lwcl.rng import epoch_permutation


@pytest.mark.parametrize("count", [1, 5, 64, 1000, 1001, 4096])
@pytest.mark.parametrize("block", [2, 7, 64, 5000])
def test_a_block_order_has_every_image_once(count: int, block: int) -> None:
    whole = epoch_order(count, 3, 1, block)[:]
    assert whole.sort().values.tolist() == list(range(count))


@pytest.mark.parametrize("count", [1000, 1001])
def test_any_part_of_an_order_is_that_part_of_the_whole(count: int) -> None:
    whole = epoch_order(count, 0, 5, 3)[:]
    for start, stop in ((0, 16), (190, 200), (185, 400), (990, 2000), (count, count + 5)):
        assert torch.equal(epoch_order(count, 0, 5, 3)[start:stop], whole[start:stop])


def test_orders_differ_by_seed_and_epoch_and_by_nothing_else() -> None:
    orders = [tuple(epoch_order(500, seed, epoch, 2)[:].tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert torch.equal(epoch_order(500, 1, 2, 2)[:], epoch_order(500, 1, 2, 2)[:])


def test_small_sets_are_shuffled_as_a_whole_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (0, 1):
        assert torch.equal(epoch_order(100, 1, 2, block)[:], epoch_permutation(100, 1, 2))
    monkeypatch.setattr(order, "MAX_FULL_SHUFFLE", 99)
    large = epoch_order(100, 1, 2)
    assert isinstance(large, BlockOrder)
    assert large.block == order.LARGE_BLOCK
    assert torch.equal(epoch_order(100, 1, 2, 1)[:], epoch_permutation(100, 1, 2))


def test_the_images_of_a_window_are_those_of_whole_blocks_well_mixed() -> None:
    block, count = 10, 10 * BLOCKS_PER_WINDOW * 4
    first = epoch_order(count, 0, 0, block)[: block * BLOCKS_PER_WINDOW]
    assert len(set((first // block).tolist())) == BLOCKS_PER_WINDOW
    neighbours = (first[1:] - first[:-1]).abs() < block
    assert neighbours.float().mean() < 3 / BLOCKS_PER_WINDOW


def test_a_billion_images_need_no_permutation_of_a_billion() -> None:
    part = epoch_order(10**9, 0, 0)[10**8 : 10**8 + 256]
    assert len(part.unique()) == 256
    assert int(part.max()) < 10**9
