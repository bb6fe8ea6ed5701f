"""Clips: views of them, networks over them, and whole runs."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from runs import pretrain, ran
from videos import CLIP, level, moving_textures, numbers, texture, write_video

from lwcl.checkpoints.load import load_encoder
from lwcl.checkpoints.onnx_file import made_batches, write_onnx
from lwcl.config.augmentation import MOCO_V2, Augmentation
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import open_images
from lwcl.data.eval_loader import CenterCropDataset
from lwcl.data.frames import Frames
from lwcl.data.loader import Loader, StudentViews
from lwcl.errors import UsageError
from lwcl.methods.method import ViewSpec
from lwcl.models.backbone import batch_norms
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec, random_encoder
from lwcl.models.video import shift_frames
from lwcl.system.compute import Compute

CPU = Compute(torch.device("cpu"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_textures(tmp_path_factory.mktemp("videos"))


def clip_loader(folder: Path, short_side: int | None = 24, *, stored: bool = True, **augmentation: Any) -> Loader:
    images = open_images([str(folder)], clip="4x2")
    store = CacheBuilder(images=images, short_side=short_side).pixel_store("ram") if stored else None
    spec = InputSpec(16, (0.5,) * 3, (0.25,) * 3, 0.875, images.pixel_format)
    student = StudentViews((ViewSpec(), ViewSpec()), Augmentation(**(MOCO_V2 | augmentation)), spec)
    return Loader(
        images=images, store=store, short_side=short_side, student=student, batch_size=3, seed=0, compute=CPU,
        on_broken=lambda broken: None,
    )  # fmt: skip


def test_crop_flip_and_colour_are_the_same_over_a_clip(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mkv", [texture(number, 32)] * 16)
    first, second = next(clip_loader(tmp_path).batches(0, 1)).views
    assert first.shape == (3, 4, 3, 16, 16)
    for view in (first, second):
        assert torch.equal(view, view[:, :1].expand_as(view)), "a video that stands still gives equal frames"
    assert not torch.equal(first, second)
    assert len({view.tobytes() for view in first[:, 0].numpy()}) == 3


def test_two_views_are_two_clips_of_the_video(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mkv", [level(time) for time in range(24)])
    plain = {"crop_min": 1.0, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
    loader = clip_loader(tmp_path, **plain)
    seen = []
    for batch in loader.batches(0, 40):
        for view in batch.views:
            brightness = (view.mean((2, 3, 4)) * 0.25 + 0.5) * 255
            shown = ((brightness - 10) / 8).round().int()
            assert (shown.diff(dim=1) == 2).all(), "frames of a clip are two frames of the video apart"
            seen += shown[:, 0].tolist()
    assert set(seen) == {0, 2, 4, 6, 8, 10, 12, 14, 16}
    files = clip_loader(tmp_path, stored=False, **plain)
    for mine, other in zip(next(loader.batches(0, 1)).views, next(files.batches(0, 1)).views, strict=True):
        assert (mine - other).abs().max() < 0.05, "from files, the clips are those of the store"


def test_videos_of_different_sizes_and_lengths_share_a_batch(tmp_path: Path) -> None:
    for number, (height, width, length) in enumerate([(32, 48, 8), (40, 32, 30), (24, 32, 3)]):
        write_video(tmp_path / f"{number}.mkv", [level(time, height, width) for time in range(length)])
    loader = clip_loader(tmp_path, None)
    assert loader.store is not None and loader.store.counts.tolist() == [4, 15, 4]
    assert next(loader.batches(0, 1)).views[0].isfinite().all()


def test_evaluation_sees_the_middle_of_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", [level(time) for time in range(20)])
    images = open_images([str(tmp_path)], clip="4x2")
    clip, broken = CenterCropDataset(images, InputSpec(24, (0.5,) * 3, (0.5,) * 3, 1.0, CLIP))[0]
    assert clip.shape == (4, 3, 24, 24) and not broken
    assert numbers(Frames(clip.movedim(1, 3).numpy())) == [6, 8, 10, 12]


def net(arch: str, temporal: str | None = None, frames: int = 4) -> Encoder:
    torch.manual_seed(0)
    return Encoder(arch, image_size=32, frames=frames, temporal=temporal).eval()


@torch.inference_mode()
def test_the_mean_over_time_is_that_of_the_frames_features() -> None:
    clips, encoder, plain = (
        torch.rand(2, 4, 3, 32, 32),
        net("test_efficientnet", "mean"),
        net("test_efficientnet", None, 0),
    )
    wanted = torch.stack([plain.features(clip).mean(0) for clip in clips])
    assert torch.allclose(encoder.features(clips), wanted, atol=1e-6)
    backwards = encoder.features(clips.flip(1))
    assert torch.allclose(backwards, wanted, atol=1e-6), "the order of frames cannot be told"


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["test_resnet", "mobilenetv3_small_050"])
def test_the_temporal_shift_tells_the_order_of_frames_and_adds_no_parameters(arch: str) -> None:
    clips, shifted, mean = torch.rand(2, 4, 3, 32, 32), net(arch, "shift"), net(arch, "mean")
    assert [*shifted.state_dict()] == [*mean.state_dict()]
    for norm in batch_norms(shifted):  # timm begins residual branches at zero
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    assert (shifted.features(clips) - shifted.features(clips.flip(1))).abs().max() > 1e-4
    again = copy.deepcopy(shifted).features(clips)
    assert torch.equal(again, shifted.features(clips))


def test_channels_are_shifted_as_in_the_paper() -> None:
    """By hand: an eighth from the next frame, an eighth from the last one, zero at the ends of each clip."""
    x = torch.arange(2 * 3 * 8.0).view(6, 8, 1, 1) + 1
    found, clips = shift_frames(x, 3).view(2, 3, 8), x.view(2, 3, 8)
    for clip in range(2):
        for frame in range(3):
            assert found[clip, frame, 0] == (clips[clip, frame + 1, 0] if frame < 2 else 0)
            assert found[clip, frame, 1] == (clips[clip, frame - 1, 1] if frame > 0 else 0)
            assert torch.equal(found[clip, frame, 2:], clips[clip, frame, 2:])


def test_a_net_without_known_branches_has_no_shift() -> None:
    with pytest.raises(UsageError, match="--temporal shift: no residual branches"):
        net("vit_tiny_patch16_224", "shift")


@torch.no_grad()
def test_running_statistics_of_a_video_net_follow_even_a_short_training() -> None:
    net = Encoder("video/s3d", (), frames=8).train()
    clips = 5 + 3 * torch.randn(4, 8, 3, 32, 32, generator=torch.manual_seed(0))
    for _ in range(25):
        net.features(clips)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for norm in batch_norms(net):
        norm.register_forward_hook(lambda norm, given, _: seen.append((norm.running_var, given[0].var((0, 2, 3, 4)))))
    net.features(clips)
    for running, measured in seen:
        assert (running - measured).norm() < 0.15 * (1 - measured).norm(), "they began as 1"


@torch.inference_mode()
@pytest.mark.parametrize(("arch", "width"), [("video/r3d_18", 512), ("video/s3d", 1024)])
def test_torchvisions_nets_give_what_precedes_their_classifier(arch: str, width: int) -> None:
    encoder, clips = net(arch), torch.rand(1, 16, 3, 32, 32)
    assert encoder.width == width and encoder.features(clips).shape == (1, width)
    plain = getattr(torchvision.models.video, arch.partition("/")[2])(weights=None).eval()
    plain.load_state_dict(encoder.backbone.state_dict(), strict=False)
    inputs: list[torch.Tensor] = []
    if width == 512:
        plain.fc.register_forward_pre_hook(lambda layer, given: inputs.append(given[0]))
        plain(clips.transpose(1, 2))
        assert torch.allclose(inputs[0], encoder.features(clips), atol=1e-5)
    with pytest.raises(UsageError, match="Unknown architecture"):
        Encoder("video/r3d_19")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--clip 4x2 --arch test_resnet", "is a network for images; --clip 4x2"),
        ("--arch video/r3d_18", "--clip is missing"),
        ("--temporal mean --arch test_resnet", "--clip is missing"),
        ("--clip 4x2 --temporal mean --arch video/r3d_18", "computes over time itself"),
        ("--clip 4x2 --temporal mean --student-view gray --teacher random/test_resnet", "--student-view is for images"),
        ("--clip 4 --temporal mean --arch test_resnet", "--clip: got '4'"),
    ],
)
def test_wrong_settings_of_clips_are_refused_before_anything_is_read(
    words: str, reason: str, videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = "compress" if "--teacher" in words else "pretrain"
    assert ran([command, "--data", str(videos), "--out", str(tmp_path / "run"), *words.split()]) == 2
    assert reason in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_net_over_frames_is_trained_scored_probed_and_exported(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import timm

    out = tmp_path / "run"
    clips = ("--clip", "4x2", "--temporal", "mean", "--batch-size", "4", "--queue-size", "8", "--max-bad", "0.2")
    data = tmp_path / "data"
    shutil.copytree(videos, data)
    (data / "train" / "down" / "01.avi").write_bytes(b"RIFF")
    assert ran(pretrain(data, out, *clips)) == 0
    assert "train/down/01.avi" in (out / "bad_files.jsonl").read_text()
    student = load_encoder(str(out))
    assert student.input_spec.pixel_format.clip == "4x2" and student.encoder.arguments["temporal"] == "mean"
    model = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True).eval()
    images = torch.rand(2, 4, 3, 32, 32)
    wanted = model(images.flatten(0, 1)).unflatten(0, (2, 4)).mean(1)
    assert torch.equal(wanted, student.encoder.eval().features(images))
    assert load_encoder(str(out / "export")).input_spec.pixel_format == student.input_spec.pixel_format
    quiet = ("--data", str(data), "--quiet")
    capfd.readouterr()
    assert ran(["knn", str(out), *quiet, "--out", str(tmp_path / "knn")]) == 0
    assert "random/test_efficientnet" in capfd.readouterr().out
    assert ran(["probe", str(out), *quiet, "--out", str(tmp_path / "probe"), "--epochs", "1"]) == 0
    assert ran(["embed", str(out), *quiet, "--out", str(tmp_path / "rows.npy")]) == 0
    rows = np.load(tmp_path / "rows.npy")
    assert rows.shape == (18, student.encoder.width) and np.isnan(rows).all(1).sum() == 1
    assert ran(["verify", str(out)]) == 0
    assert ran(["knn", "random/test_efficientnet", *quiet, "--clip", "4x2"]) == 2
    assert "is a network for images; --clip 4x2 gives it 4 frames" in capfd.readouterr().err
    assert ran(["diagnose-clustering", str(out), *quiet]) == 2
    assert "clips" in capfd.readouterr().err


def test_a_video_net_learns_from_a_teacher_of_images(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["compress", "--method", "2q", "--data", str(videos), "--out", str(out), "--clip", "4x2"]
    words += ["--arch", "video/mc3_18", "--teacher", "random/test_resnet", "--image-size", "32", "--teacher-size", "32"]
    assert (
        ran(
            [
                *words,
                *[
                    "--epochs",
                    "1",
                    "--batch-size",
                    "4",
                    "--anchors",
                    "8",
                    "--threads",
                    "1",
                    "--workers",
                    "0",
                    "--quiet",
                ],
            ]
        )
        == 0
    )
    student = load_encoder(str(out / "export"))
    assert student.encoder.arch == "video/mc3_18" and student.input_spec.pixel_format.clip == "4x2"
    assert ran(["verify", str(out)]) == 0


@pytest.mark.parametrize("with_preprocess", [False, True])
def test_an_onnx_file_takes_clips(with_preprocess: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    spec = InputSpec(32, (0.5,) * 3, (0.25,) * 3, 0.875, CLIP)
    loaded = random_encoder("test_resnet", spec, 0, {"temporal": "shift"})
    write_onnx(tmp_path / "a.onnx", loaded, opset=18, with_preprocess=with_preprocess)
    again = load_encoder(str(tmp_path / "a.onnx"))
    assert again.encoder.arguments["temporal"] == "shift" and again.input_spec == spec
    clips = made_batches(spec)[1]
    with torch.inference_mode():
        found, wanted = again.encoder.features(clips), loaded.encoder.eval().features(clips)
    assert clips.shape == (5, 4, 3, 32, 32) and torch.allclose(found, wanted, atol=1e-4)
