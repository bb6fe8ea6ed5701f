"""What several processes compute in shares is what one computes: features of encoders, outputs of a teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Group, together
from runs import made_images, ran
from test_images import png
from test_loader import loader
from test_shards import make_shard

from lwcl.data.dataset import open_images
from lwcl.data.sources.shards import TarShards
from lwcl.errors import UsageError
from lwcl.training.teacher_cache import TEACHER_CHUNK_ROWS, TeacherCache


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes."""
    return made_images(tmp_path_factory.mktemp("labelled"), 90, ("a", "b", "c"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("words", ["knn", "probe", "probe --protocol moco --epochs 2 --batch-size 12"])
def test_encoders_are_evaluated_in_shares_as_in_one_process(words: str, labelled: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        shared = "--image-size 32 --device cpu --precision fp32 --threads 1 --workers 0 --quiet"
        name, *more = words.split()
        return [
            name,
            "random/test_resnet",
            "--data",
            str(labelled),
            *shared.split(),
            *more,
            "--out",
            str(tmp_path / out),
        ]

    def accuracies(out: str) -> list[Any]:
        tables = json.loads((tmp_path / out / "report.json").read_text())["tables"]
        return [row[:3] for row in tables[0]["rows"]]

    assert ran(command("one")) == 0
    group = Group(command("two"), tmp_path)
    assert group.ended(200) == [0, 0], group.said()
    assert accuracies("one") == accuracies("two")


def test_a_process_reads_the_images_of_its_own_part_of_each_batch_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        make_shard(tmp_path / f"train-{shard}.tar", {f"{number}.png": png(8 * shard + number) for number in range(8)})
    read = TarShards.read

    def steps_of_two_epochs() -> list[list[int]]:
        images, seen = open_images([f"{tmp_path}/train-{{0..2}}.tar"]), list[list[int]]()
        monkeypatch.setattr(TarShards, "read", lambda own, name, row: seen.append(list(row)) or read(own, name, row))
        for _ in loader(images).batches(0, 12):
            pass
        return seen

    (alone,), parts = together(1, steps_of_two_epochs, tmp_path / "1"), together(2, steps_of_two_epochs, tmp_path / "2")
    assert sorted(parts[0] + parts[1]) == sorted(alone)
    assert [len(part) for part in parts] == [24, 24]
    for epoch in (slice(0, 12), slice(12, 24)):
        assert len({tuple(row) for part in parts for row in part[epoch]}) == 24, "each image once in an epoch"


def test_a_command_for_one_process_is_refused_in_several(tmp_path: Path) -> None:
    group = Group(["bench", "random/test_resnet"], tmp_path)
    codes = group.ended()
    assert codes == [UsageError.exit_code] * 2
    assert "lwcl bench runs in one process; 2 were started." in group.said()[0]


def test_a_teachers_outputs_are_computed_once_each_and_equal_those_of_one_process(tmp_path: Path) -> None:
    count = 3 * TEACHER_CHUNK_ROWS + 5

    def fill(folder: Path) -> list[int]:
        computed: list[int] = []

        def outputs(crop: int, index: torch.Tensor) -> torch.Tensor:
            computed.extend((crop * count + index).tolist())
            return torch.stack([index + 0.5, index * (crop + 1.0)], 1)

        cache = TeacherCache.open({"teacher": "made"}, (2, count, 2), torch.float32, folder)
        cache.fill(outputs, 100, lambda done, total: None)
        assert torch.equal(cache.whole(1)[:, 0], torch.arange(count) + 0.5)
        return computed

    (alone,) = together(1, lambda: fill(tmp_path / "one"), tmp_path / "1")
    shares = together(3, lambda: fill(tmp_path / "three"), tmp_path / "3")
    assert sorted(row for share in shares for row in share) == sorted(alone)
    assert all(shares)
    content = [(tmp_path / run / "rows.bin").read_bytes() for run in ("one", "three")]
    assert content[0] == content[1]
    assert together(2, lambda: fill(tmp_path / "three"), tmp_path / "2") == [[], []], (
        "what is there is not computed again"
    )
