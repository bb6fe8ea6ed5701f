"""The parts with state: the queue as a plain list, the key encoder as a moving average, heads, split batch norm."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lwcl.errors import UsageError
from lwcl.models.archs import check_arch
from lwcl.models.backbone import build_backbone, zero_init_residuals
from lwcl.models.encoder import Encoder, hidden_width, mlp
from lwcl.models.memory import Queue
from lwcl.models.momentum_encoder import MomentumEncoder
from lwcl.models.net import Net
from lwcl.models.split_norm import split_batch_norms


@given(st.integers(1, 20), st.lists(st.integers(1, 30), max_size=12))
def test_a_queue_holds_the_latest_rows_of_a_plain_list(size: int, batches: list[int]) -> None:
    queue, plain = Queue(size, 2), []
    leader = torch.nn.Identity()
    for number, count in enumerate(batches):
        rows = torch.full((count, 2), float(number)) + torch.arange(count)[:, None] / 100
        queue.push(rows)
        queue.after_step(leader)
        plain += rows.tolist()
    latest = plain[-size:]
    held = queue.rows().tolist()
    assert all(row in held for row in latest)
    assert int(queue.pointer) == len(plain) % size


def test_rows_enter_a_queue_only_after_the_step() -> None:
    queue = Queue(4, 2)
    before = queue.rows().clone()
    queue.push(torch.ones(2, 2))
    assert torch.equal(queue.rows(), before)
    queue.after_step(torch.nn.Identity())
    assert torch.equal(queue.rows()[:2], torch.ones(2, 2))
    assert torch.equal(queue.rows()[2:], before[2:])


def test_a_new_queue_holds_unit_vectors() -> None:
    assert Queue(100, 8).rows().norm(dim=1).tolist() == pytest.approx([1.0] * 100)


def test_a_key_encoder_is_an_exponential_average_of_its_leader() -> None:
    leader = Encoder("test_resnet", (4,)).double()
    with torch.no_grad():
        for parameter in leader.parameters():
            parameter.fill_(1.0)
    follower = MomentumEncoder(leader, momentum=0.999)
    seen = []
    for value in (2.0, 3.0, 4.0):
        with torch.no_grad():
            for parameter in leader.parameters():
                parameter.fill_(value)
        follower.after_step(leader)
        seen.append(float(next(follower.parameters()).flatten()[0]))
    assert seen == pytest.approx([1.001, 1.002999, 1.005996001], rel=1e-12)


def test_a_key_encoder_without_momentum_copies_parameters_and_keeps_its_own_buffers() -> None:
    leader = Encoder("test_resnet", (4,))
    follower = MomentumEncoder(leader, momentum=0.0)
    leader.train()(torch.randn(4, 3, 32, 32))
    with torch.no_grad():
        for parameter in leader.parameters():
            parameter.add_(1.0)
    follower.after_step(leader)
    assert all(torch.equal(a, b) for a, b in zip(leader.parameters(), follower.parameters(), strict=True))
    changed = [not torch.equal(a, b) for a, b in zip(leader.buffers(), follower.buffers(), strict=True)]
    assert any(changed)


def test_keys_carry_no_gradient_and_a_key_encoder_stays_in_train_mode() -> None:
    leader = Encoder("test_resnet", (4,))
    net = Net(leader, key=MomentumEncoder(leader, 0.9))
    net.train()
    assert not net.key(torch.randn(2, 3, 32, 32)).requires_grad
    assert all(module.training for module in net.key.modules())


def test_embeddings_are_unit_vectors_of_the_heads_last_width() -> None:
    embedding = Encoder("test_efficientnet", (32, 8))(torch.randn(3, 3, 32, 32))
    assert embedding.shape == (3, 8)
    assert embedding.norm(dim=1).tolist() == pytest.approx([1.0] * 3, rel=1e-6)


@pytest.mark.parametrize(("hidden", "expected"), [("1x", 960), ("2x", 1920), ("0.5x", 480), ("2048", 2048), ("0", 0)])
def test_hidden_widths_are_written_as_multiples_or_numbers(hidden: str, expected: int) -> None:
    assert hidden_width(hidden, 960) == expected


@pytest.mark.parametrize("hidden", ["wide", "-1", "x", ""])
def test_a_hidden_width_that_is_none_is_refused(hidden: str) -> None:
    with pytest.raises(UsageError, match="--hidden"):
        hidden_width(hidden, 960)


def test_a_head_has_relu_between_its_linear_layers_and_no_batch_norm() -> None:
    kinds = [type(layer).__name__ for layer in mlp(8, (16, 4))]
    assert kinds == ["Linear", "ReLU", "Linear"]
    assert len(mlp(8, ())) == 0


def test_an_architecture_that_cannot_take_a_size_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="test_vit"):
        Encoder("test_vit", image_size=33, output_stride=8)


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "timm/resnet18"])
def test_a_name_of_a_hub_is_refused_with_the_name_that_timm_has(name: str) -> None:
    with pytest.raises(UsageError, match="timm itself calls it resnet18"):
        check_arch(name)


def test_split_batch_norm_gives_each_part_its_own_statistics() -> None:
    whole = Encoder("test_resnet", (4,)).train()
    images = torch.randn(8, 3, 32, 32)
    contiguous, interleaved = copy.deepcopy(whole), copy.deepcopy(whole)
    split_batch_norms(contiguous, 2)
    split_batch_norms(interleaved, 2, interleaved=True)
    start = copy.deepcopy(whole.state_dict())
    statistics = []
    for part, other, places in ((contiguous, whole, slice(0, 4)), (interleaved, whole, slice(0, 8, 2))):
        other.load_state_dict(start)
        assert torch.allclose(part(images)[places], other(images[places]), atol=1e-6)
        statistics.append(other.backbone.bn1.running_mean.clone())
    whole.load_state_dict(start)
    whole(images[4:])
    mean = (statistics[0] + whole.backbone.bn1.running_mean) / 2
    assert torch.allclose(contiguous.backbone.bn1.running_mean, mean, atol=1e-6)
    assert int(contiguous.backbone.bn1.num_batches_tracked) == 1


def test_parts_keep_the_order_of_images_and_are_one_in_eval_mode() -> None:
    encoder = Encoder("test_resnet", (4,)).eval()
    images = torch.randn(7, 3, 32, 32)
    expected = encoder(images)
    for interleaved in (False, True):
        split = copy.deepcopy(encoder)
        split_batch_norms(split, 3, interleaved=interleaved)
        assert torch.allclose(split(images), expected, atol=1e-5)


@pytest.mark.parametrize(("arch", "branches"), [("mobilenetv3_small_100", 6), ("efficientnet_b0", 9), ("resnet18", 0)])
def test_residual_branches_that_start_at_zero_leave_their_block_the_identity(arch: str, branches: int) -> None:
    backbone, _ = build_backbone(arch)
    assert zero_init_residuals(backbone) == branches
    for block in backbone.modules():
        if getattr(block, "has_skip", False):
            images = torch.randn(2, next(block.parameters()).shape[1], 8, 8)
            assert torch.equal(block.eval()(images), images)
