"""The Hugging Face Hub, of which only the client's calls are tested: there is no network here."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import onnx
import pytest
import torch
from runs import ran

from lwcl.checkpoints.hub import check_repository
from lwcl.checkpoints.load import load_encoder, weights_hash_of
from lwcl.errors import UsageError

EXPORT = ["export", "random/test_efficientnet", "--image-size", "32"]


class Hub:
    """What the client was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[str] = []
        self.failure: Exception | None = None

    def create_repo(self, name: str, **words: Any) -> None:
        self.asked.append((name, words))

    def upload_folder(self, **words: Any) -> None:
        if self.failure:
            raise self.failure
        self.asked.append((words.pop("repo_id"), words))
        self.sent = sorted(path.name for path in Path(words["folder_path"]).iterdir())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A client that sends nothing."""
    stub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stub)
    return stub


def test_an_export_is_sent_whole_to_a_private_repository(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--push", "me/small-net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushed"] == "https://huggingface.co/me/small-net"
    assert [name for name, _ in hub.asked] == ["me/small-net"] * 2
    assert hub.asked[0][1] == {"private": True, "exist_ok": True}
    assert hub.sent == ["README.md", "config.json", "model.safetensors"]


def test_nothing_is_sent_unless_asked(hub: Hub, tmp_path: Path) -> None:
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert hub.asked == []


def test_an_export_that_cannot_be_sent_stays(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.failure = ConnectionError("no network")
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--push", "me/small-net"]) == 2
    said = capsys.readouterr().err
    assert "could not be sent to me/small-net" in said
    assert "hf auth login" in said
    assert (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["small-net", "me/", "/net", "me/small net", "me/../net", "a/b/c", "https://hf.co/a/b"]
)
def test_what_is_no_repository_is_refused_before_anything_is_written(
    name: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="not the name of a repository"):
        check_repository(name)
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--push", name]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("spec", "revision"), [("hf-hub:me/net", None), ("hf-hub:me/net@v2", "v2")])
def test_a_model_of_the_hub_is_an_encoder(
    spec: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--licence", "mit", "--quiet"]) == 0
    asked: list[Any] = []

    def snapshot_download(name: str, **words: Any) -> str:
        asked.append((name, words["revision"]))
        assert set(words["allow_patterns"]) == {"config.json", "model.safetensors", "pytorch_model.bin"}
        return str(tmp_path / "out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded, own = load_encoder(spec), load_encoder(str(tmp_path / "out"))
    assert asked == [("me/net", revision)]
    assert (loaded.name, loaded.metadata["licence"], loaded.encoder.arch) == (spec, "mit", "test_efficientnet")
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.encoder.eval().features(images), own.encoder.eval().features(images))


def test_a_model_that_cannot_be_had_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*names: str, **words: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UsageError, match="hf-hub:me/net: cannot be downloaded"):
        load_encoder("hf-hub:me/net")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *names, **words: str(tmp_path))
    with pytest.raises(UsageError, match="holds no timm model"):
        load_encoder("hf-hub:me/net")
    with pytest.raises(UsageError, match="not the name of a repository"):
        load_encoder("hf-hub:net")


def test_licences_stand_in_the_card_and_in_the_onnx_file(tmp_path: Path) -> None:
    words = ["--format", "onnx", "--licence", "Apache-2.0", "--data-licence", "CC BY 4.0", "--quiet"]
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), *words]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    assert "license: apache-2.0\n---\n" in card
    assert "* the training images: CC BY 4.0" in card
    (entry,) = onnx.load_model(str(tmp_path / "out/model.onnx")).metadata_props
    facts = json.loads(entry.value)["metadata"]
    assert (facts["licence"], facts["data licence"]) == ("Apache-2.0", "CC BY 4.0")


def test_a_licence_that_nobody_stated_is_said_to_be_unknown(tmp_path: Path) -> None:
    assert ran([*EXPORT, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "* these weights: not stated" in card
    assert "license:" not in card.partition("---\n# ")[0]


def test_a_run_that_starts_from_a_hub_knows_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran([*EXPORT, "--out", str(tmp_path / "net"), "--quiet"]) == 0
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *names, **words: str(tmp_path / "net"))
    assert weights_hash_of("hf-hub:me/net") == weights_hash_of(str(tmp_path / "net")) != ""
