"""Videos: which frames are read, what damage becomes, and wrong data."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import picture
from videos import CLIP, CODECS, av, level, moving_textures, numbers, texture, write_video

from lwcl.config.clips import parse_clip
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import open_images
from lwcl.data.native import UnreadableImageError
from lwcl.data.video import decode_video, read_facts, survey_video
from lwcl.errors import DataError, UsageError
from lwcl.training.preflight import copies_warning


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_textures(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize("container", CODECS)
def test_every_second_frame_is_read_from_every_container(container: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a.{container}", [level(number) for number in range(13)])
    assert numbers(decode_video(path, CLIP)) == [0, 2, 4, 6, 8, 10, 12]
    facts = read_facts(path)
    assert (facts.width, facts.height, facts.rate, facts.bits) == (48, 32, 25, 8)
    assert not survey_video(path)[1]


def test_of_a_varying_rate_the_frames_seen_at_even_times_are_read(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 4, 5, 6, 14, 15, 16, 17, 18]
    path = write_video(tmp_path / "a.mkv", [level(number) for number in range(12)], times)
    step = 2 * 25 / float(read_facts(path).rate)
    moments = [number * step for number in range(len(decode_video(path, CLIP)))]
    wanted = [max(number for number, time in enumerate(times) if time <= moment + step / 4) for moment in moments]
    assert numbers(decode_video(path, CLIP)) == wanted
    assert wanted.count(6) > 1, "the frame that is shown for long is seen more than once"
    assert survey_video(path)[1]
    notes = open_images([str(tmp_path)], clip="4x2").notes
    assert any("1 of 1 video looked at" in note and "varying frame rate" in note for note in notes)


def test_a_short_video_keeps_its_last_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", [level(number) for number in range(3)])
    assert numbers(decode_video(tmp_path / "a.avi", CLIP)) == [0, 2, 2, 2]
    assert any("shorter than a clip of 4x2" in note for note in open_images([str(tmp_path)], clip="4x2").notes)


def test_frames_are_shrunk_when_they_are_read(tmp_path: Path) -> None:
    whole = texture(1, 64)
    path = write_video(tmp_path / "a.mkv", [whole[:, :48]] * 8)
    small = np.asarray(decode_video(path, CLIP, 24))
    assert small.shape == (4, 32, 24, 3)
    wanted = np.asarray(Image.fromarray(whole[:, :48]).resize((24, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(small[0].astype(int) - wanted).mean() < 3


def damaged(data: bytes, kind: str) -> bytes:
    if kind == "cut":
        return data[: len(data) * 6 // 10]
    if kind == "zeros":
        return data[: len(data) // 3] + bytes(len(data) // 4) + data[len(data) // 3 + len(data) // 4 :]
    flipped = bytearray(data)
    for place in range(len(data) // 3, 2 * len(data) // 3, 97):
        flipped[place] ^= 0xFF
    return bytes(flipped)


@pytest.mark.parametrize("kind", ["cut", "zeros", "flipped"])
@pytest.mark.parametrize("container", CODECS)
def test_damage_is_never_cut_out_in_silence(container: str, kind: str, tmp_path: Path) -> None:
    whole = np.random.default_rng(3).integers(0, 256, (160, 160, 3), dtype=np.uint8)  # most of the file is pixels
    frames = [whole[2 * time : 2 * time + 64, time : time + 96] for time in range(40)]
    path = write_video(tmp_path / f"a.{container}", frames)
    assert len(decode_video(path, CLIP)) == 20
    path.write_bytes(damaged(path.read_bytes(), kind))
    with pytest.raises(UnreadableImageError):
        decode_video(path, CLIP)


def test_what_a_decoder_says_of_damage_is_repeated(tmp_path: Path) -> None:
    whole = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", [whole] * 40)
    path.write_bytes(damaged(path.read_bytes(), "flipped"))
    with pytest.raises(UnreadableImageError, match=r"Invalid data found when processing input \(h264: "):
        decode_video(path, CLIP)


def test_videos_that_only_begin_alike_are_no_copies(tmp_path: Path) -> None:
    for name, second in (("a", 10), ("b", 20), ("c", 10)):
        write_video(tmp_path / f"{name}.mkv", [level(number) for number in (0, 0, second, second)])
    store = CacheBuilder(images=open_images([str(tmp_path)], clip="2x2"), short_side=None).pixel_store("ram")
    assert copies_warning(store).startswith("1 of 3 images looked at are copies")


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    for name in ("text.mp4", "empty.mp4", "missing.mp4"):
        with pytest.raises(UnreadableImageError):
            decode_video(tmp_path / name, CLIP)
    with pytest.raises(UnreadableImageError, match="no video in the file"):
        decode_video(tmp_path / "sound.mkv", CLIP)


def test_wrong_data_for_clips_is_refused(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="--clip is for videos"):
        open_images([str(tmp_path)], clip="4x2")
    write_video(tmp_path / "b.avi", [level(0)] * 4)
    with pytest.raises(DataError, match="mixes 1 video with 1 other file"):
        open_images([str(tmp_path)], clip="4x2")
    assert any("1 video beside the images not read" in note for note in open_images([str(tmp_path)]).notes)
    with pytest.raises(DataError, match="Found 18 videos: --clip 8x4"):
        open_images([str(videos)])
    with pytest.raises(UsageError, match="does not exist"):
        open_images(["digits"], clip="4x2")
    with pytest.raises(UsageError, match="--channels is for images"):
        open_images([str(videos)], clip="4x2", channels="1")
    for text in ("8", "8x", "0x4", "8x0", "x", "999x4"):
        with pytest.raises(UsageError, match="--clip: got"):
            parse_clip(text)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match="av is needed"):
        open_images([str(videos)], clip="4x2")


def test_a_list_names_videos_with_their_classes(videos: Path, tmp_path: Path) -> None:
    rows = [f"{videos}/train/right/{number:02}.avi,right" for number in range(0, 6, 2)]
    rows += [f"{videos}/train/down/01.avi,down"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    images = open_images([str(tmp_path / "list.csv")], clip="4x2")
    assert images.classes == ("down", "right") and images.labels.tolist() == [0, 1, 1, 1]
    assert np.asarray(images.image(0)).shape == (8, 32, 48, 3)


def test_broken_videos_are_named_and_replaced(videos: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.avi").write_bytes((videos / "train" / "right" / "00.avi").read_bytes())
    (tmp_path / "1.avi").write_bytes((tmp_path / "0.avi").read_bytes()[:3000])
    images = open_images([str(tmp_path)], clip="4x2")
    store = CacheBuilder(images=images, short_side=24, max_bad=0.5).pixel_store("ram")
    assert [broken.name for broken in store.broken] == ["1.avi"]
    assert store.counts.tolist() == [8, 8, 8]
    with pytest.raises(DataError, match=r"'1\.avi'"):
        CacheBuilder(images=images, short_side=24, max_bad=0.1).pixel_store("ram")
