"""Files that are no encoder: what is wrong is told, nothing in them runs, and none decides how much memory it takes."""

import json
import os
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files as files
import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from lwcl.checkpoints.encoder_file import read_description
from lwcl.checkpoints.foreign.matching import match_architecture
from lwcl.checkpoints.load import load_encoder
from lwcl.errors import UsageError
from lwcl.models.encoder import Encoder

EVENTS: list[str] = []
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")


@pytest.fixture(scope="module", autouse=True)
def watched() -> None:
    """Remembers what runs a program; Python keeps such a hook until it ends."""
    sys.addaudithook(lambda event, arguments: EVENTS.append(event) if event in RUNS else None)


@pytest.mark.parametrize(
    ("name", "part", "says"),
    [
        ("moco-v2", "teacher", "Possible: student, key"),
        ("dino", "key", "Possible: teacher, student"),
        ("swav", "teacher", "only one part"),
    ],
)
def test_a_part_that_a_layout_lacks_is_refused(name: str, part: str, says: str, tmp_path: Path) -> None:
    files.save_pickled(tmp_path / "c.pth", files.CASES[name]().content)
    with pytest.raises(UsageError, match=says):
        load_encoder(f"{tmp_path / 'c.pth'}#{part}", arch=files.ARCH)


def test_our_own_files_have_no_parts_and_need_no_architecture(tmp_path: Path) -> None:
    encoder = Encoder("test_efficientnet", (16, 8), norm=True)
    files.save_own(tmp_path / "own.safetensors", encoder, 64)
    loaded = load_encoder(str(tmp_path / "own.safetensors"))
    assert (loaded.encoder.head_layers, loaded.input_spec.size) == ((16, 8), 64)
    assert loaded.encoder.state_dict().keys() == encoder.state_dict().keys()
    with pytest.raises(UsageError, match="part"):
        load_encoder(f"{tmp_path / 'own.safetensors'}#teacher")


def test_an_encoder_file_of_another_version_is_refused_by_its_format(tmp_path: Path) -> None:
    encoder = Encoder("test_vit")
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "old.safetensors", {"lwcl": json.dumps({"format": 1})})
    with pytest.raises(UsageError, match="format 1") as caught:
        load_encoder(str(tmp_path / "old.safetensors"))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"head": [10**10]},
        {"head": ["linear 10000000000"]},
        {"head": ["linear x"]},
        {"head": ["swish"]},
        {"head": None},
        {"arch": "resnet81"},
        {"arguments": {"img_size": 10**6}},
        {"arguments": None},
        {"input_spec": {}},
        {"input_spec": {"size": "x", "mean": 1, "std": [], "crop_pct": None}},
    ],
)
def test_our_own_files_may_not_describe_what_they_do_not_hold(wrong: dict[str, Any], tmp_path: Path) -> None:
    encoder = Encoder("test_vit", (8,))
    files.save_own(tmp_path / "own.safetensors", encoder, 160)
    about = json.dumps(read_description(tmp_path / "own.safetensors") | {"sha256": None} | wrong)
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "own.safetensors", {"lwcl": about})
    with pytest.raises(UsageError, match=r"own\.safetensors"):
        load_encoder(str(tmp_path / "own.safetensors"))


def test_a_flipped_bit_of_a_weight_or_of_the_description_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "own.safetensors"
    files.save_own(place, Encoder("test_vit", (8,)), 160)
    whole = place.read_bytes()
    load_encoder(str(place))
    for at in (len(whole) - 100, whole.index(b"0.25") + 3):  # a weight; a standard deviation of 0.24
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UsageError, match="damaged"):
            load_encoder(str(place))


def resnet_state() -> files.State:
    return timm.create_model(files.ARCH, num_classes=0).state_dict()


WRONG: dict[str, tuple[Callable[[], Any], str | None, tuple[str, ...]]] = {
    "nothing of it": (lambda: {"a.weight": torch.zeros(2)}, files.ARCH, ("0 matched", "conv1.0.weight", "a.weight")),
    "no name known": (lambda: {"a.weight": torch.zeros(2)}, None, ("cannot be detected", "a.weight", "--arch")),
    "a tensor less": (
        lambda: {name: one for name, one in resnet_state().items() if name != "layer2.0.conv1.weight"},
        files.ARCH,
        ("1 missing (layer2.0.conv1.weight)",),
    ),
    "a layer more": (
        lambda: resnet_state() | {"layer4.7.conv1.weight": torch.zeros(1)},
        files.ARCH,
        ("0 missing (none)", "layer4.7.conv1.weight"),
    ),
    "d-li14": (
        lambda: {"features.1.conv.4.fc.0.weight": torch.zeros(8, 16)},
        None,
        ("d-li14's MobileNetV3", "before the activation"),
    ),
    "lucidrains": (
        lambda: {"pos_embedding": torch.zeros(1), "transformer.layers.0.0.fn.to_qkv.weight": torch.zeros(1)},
        None,
        ("lucidrains",),
    ),
    "no tensors": (lambda: {"epoch": 3, "loss": 0.1}, None, ("epoch, loss",)),
    "a list": (lambda: [torch.zeros(2)], None, ("nothing with names",)),
    "no such architecture": (resnet_state, "resnet81", ("resnet81",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_no_such_network_are_told(name: str, tmp_path: Path) -> None:
    content, arch, says = WRONG[name]
    files.save_pickled(tmp_path / "c.pth", content())
    with pytest.raises(UsageError) as found:
        load_encoder(str(tmp_path / "c.pth"), arch=arch)
    assert all(word in str(found.value) for word in says), str(found.value)


def test_a_tensor_of_another_shape_is_told_with_both_shapes() -> None:
    with torch.device("meta"):
        state = timm.create_model("resnet18").state_dict() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(UsageError) as found:
        match_architecture(Path("cifar.pth"), state, None, None)
    assert "resnet18, the closest" in found.value.what
    assert "99 matched; 1 missing (conv1.weight (64, 3, 3, 3) for (64, 3, 7, 7)); 3 unexpected" in found.value.why


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def archive(place: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(place, "w", method) as made:
        for name, data in members.items():
            made.writestr(f"archive/{name}", data)


def header(place: Path, about: dict[str, Any], data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file with this header."""
    text = json.dumps(about).encode()
    place.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def f32(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}


def overstated(place: Path) -> None:
    """An archive whose table of contents claims a terabyte."""
    archive(place, {"data.pkl": b"\x80\x02}.", "data/0": b"0" * 64})
    data = bytearray(place.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (2**32 - 2).to_bytes(4, "little") * 2
    place.write_bytes(data)


SHELL = "true"
HOSTILE: dict[str, Callable[[Path], Any]] = {
    "pickle that runs a shell": lambda place: files.save_pickled(place, {"state_dict": Calls(os.system, SHELL)}),
    "old pickle that runs a shell": lambda place: files.save_old(place, {"state_dict": Calls(os.system, SHELL)}),
    "pickle that evaluates": lambda place: files.save_pickled(place, Calls(eval, "1 / 0")),
    "newer pickle that runs a shell": lambda place: torch.save(Calls(os.system, SHELL), place, pickle_protocol=4),
    "pickle that allocates": lambda place: files.save_pickled(place, {"a": Calls(bytearray, 10**11)}),
    "pickle that allocates a tensor": lambda place: files.save_pickled(place, {"a": Calls(torch.FloatTensor, 10**10)}),
    "tensor larger than its file": lambda place: files.save_pickled(place, {"a": torch.zeros(1).expand(10**9, 64)}),
    "endless pickle": lambda place: archive(
        place, {"data.pkl": b"\x80\x02" + b"N0" * 600_000 + b"N.", "version": b"3"}
    ),
    "exported program": lambda place: archive(place, {"archive_format": b"pt2", "models/model.json": b"{}"}),
    "TorchScript": lambda place: archive(place, {"data.pkl": b"\x80\x02}.", "constants.pkl": b"\x80\x02)."}),
    "zip bomb": lambda place: archive(place, {"data.pkl": bytes(30 << 20)}, zipfile.ZIP_DEFLATED),
    "archive that overstates": overstated,
    "object array": lambda place: place.write_bytes(object_array(place)),
    "header of 2^63 bytes": lambda place: header(place, {}, length=2**63),
    "header longer than its file": lambda place: header(place, {}, length=1000),
    "overlapping tensors": lambda place: header(place, {"a": f32(0, 64), "b": f32(32, 96)}, bytes(96)),
    "tensor beyond the end": lambda place: header(place, {"a": f32(0, 2**40)}, bytes(96)),
    "100,000 tensors": lambda place: header(
        place, {f"t{i}": f32(4 * i, 4 * i + 4) for i in range(100_000)}, bytes(400_000)
    ),
    "header that is not JSON": lambda place: place.write_bytes((9).to_bytes(8, "little") + b"{" * 9),
    "link to nothing": lambda place: place.symlink_to("gone.pth"),
    "link to itself": lambda place: place.symlink_to(place),
    "link to a device": lambda place: place.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "empty file": Path.touch,
    "pointer of git-lfs": lambda place: place.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "page of a web site": lambda place: place.write_text("<!DOCTYPE html><html></html>"),
}


def object_array(place: Path) -> bytes:
    """An .npy file with a pickle in it."""
    np.save(place.with_suffix(".npy"), np.array([Calls(os.system, SHELL)], dtype=object), allow_pickle=True)
    return place.with_suffix(".npy").read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_quickly_in_little_memory_and_runs_nothing(name: str, tmp_path: Path) -> None:
    HOSTILE[name](tmp_path / "checkpoint.pth")
    EVENTS.clear()
    memory, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UsageError) as found:
        load_encoder(str(tmp_path / "checkpoint.pth"))
    assert time.process_time() - begun < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000, "kilobytes"
    assert str(tmp_path / "checkpoint.pth") in found.value.what
    assert found.value.remedy
    assert EVENTS == []


@pytest.mark.parametrize("save", [files.save_pickled, files.save_old, files.save_tensors])
def test_a_damaged_file_is_refused_or_still_an_encoder(save: Callable[[Path, Any], None], tmp_path: Path) -> None:
    place, damaged = tmp_path / "c.pth", tmp_path / "damaged.pth"
    save(place, files.Network(*files.linear(8)).state())
    whole, random = place.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(24):
        data = bytearray(whole)
        at = int(random.integers(len(data) if number % 3 else 3000))
        data[at] ^= 1 << int(random.integers(8))
        damaged.write_bytes(data if number % 2 else whole[:at])
        try:
            load_encoder(str(damaged), arch=files.ARCH)
        except UsageError:
            refused += 1
    assert refused >= 12, "those that were cut at least"
