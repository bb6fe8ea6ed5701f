"""Decoded images are cached completely: for any number of workers, after any kill, with broken files among them."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lwcl.data.cache import decode_all, disk
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.cache.pixels import ImageIndex, PixelStore, make_pixel_store
from lwcl.data.cache.policy import CacheEstimate, choose_cache
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.decode import decode, downscale
from lwcl.data.native import UnreadableImageError
from lwcl.errors import DataError, StorageError
from lwcl.models.pixel_format import PixelFormat
from lwcl.system.limits import available_memory
from lwcl.system.lock import wait_for_lock

COUNT = 24
Where = Literal["ram", "disk"]
WHERE: tuple[Where, ...] = ("ram", "disk")


def fill(images: ImageSet, *, where: Where, **how: Any) -> PixelStore:
    return CacheBuilder(images=images, **how).pixel_store(where)


def jpeg(value: int, width: int, height: int, mode: str = "RGB") -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 3 + value, y * 5, (x + y) * value], axis=2) % 256
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, "JPEG")
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LWCL_CACHE", str(folder))
    monkeypatch.setattr(decode_all, "CHUNK_IMAGES", 5)
    return folder


@pytest.fixture
def ragged(tmp_path: Path) -> ImageSet:
    for value in range(COUNT):
        (tmp_path / f"{value:02d}.jpg").write_bytes(jpeg(value, 20 + value, 40 - value))
    return open_images([str(tmp_path)])


@pytest.fixture
def holed(tmp_path: Path) -> ImageSet:
    for value in range(COUNT):
        (tmp_path / f"{value:02d}.jpg").write_bytes(b"" if value in (3, 4, 23) else jpeg(value, 20, 20 + value))
    return open_images([str(tmp_path)])


def same(first: PixelStore, second: PixelStore) -> bool:
    columns = zip(*((s.offsets, s.heights, s.widths, s.pixels) for s in (first, second)), strict=True)
    return all(torch.equal(*pair) for pair in columns) and first.broken == second.broken


def expected(images: ImageSet, index: int, short_side: int | None) -> torch.Tensor:
    image = downscale(images.image(index, short_side), short_side)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("short_side", [None, 12])
def test_a_store_holds_every_image_as_decoded_and_shrunk(
    ragged: ImageSet, where: Where, short_side: int | None
) -> None:
    told: list[tuple[int, int]] = []
    store = fill(ragged, short_side=short_side, where=where, progress=lambda *args: told.append(args))
    assert all(torch.equal(store.image(index), expected(ragged, index, short_side)) for index in range(COUNT))
    assert (len(store), store.broken, store.uniform) == (COUNT, [], False)
    assert told == [(5, COUNT), (10, COUNT), (15, COUNT), (20, COUNT), (24, COUNT)]


def test_workers_change_nothing(holed: ImageSet) -> None:
    alone = fill(holed, short_side=16, where="ram", max_bad=0.5)
    assert same(alone, fill(holed, short_side=16, where="ram", workers=1, max_bad=0.5))
    assert same(alone, fill(holed, short_side=16, where="disk", workers=2, max_bad=0.5))


def test_a_ragged_batch_is_padded_with_zeros_below_and_to_the_right(ragged: ImageSet) -> None:
    store = fill(ragged, short_side=None, where="ram")
    images, heights, widths = store.batch(torch.tensor([0, 23, 7, 7]))
    assert images.shape == (4, 3, 40, 43)
    assert images.is_contiguous(memory_format=torch.channels_last)
    for image, height, width, row in zip(images, heights, widths, [0, 23, 7, 7], strict=True):
        assert torch.equal(image[:, :height, :width], store.image(row))
        assert image[:, height:].sum() == image[:, :, width:].sum() == 0


def test_a_uniform_batch_is_one_gather(tmp_path: Path) -> None:
    for value in range(6):
        (tmp_path / f"{value}.jpg").write_bytes(b"x" if value == 2 else jpeg(value, 10, 8))
    for where in WHERE:
        store = fill(open_images([str(tmp_path)]), short_side=None, where=where, max_bad=0.5)
        images, heights, widths = store.batch(torch.tensor([5, 2, 0]))
        assert store.uniform
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (heights.tolist(), widths.tolist()) == ([8] * 3, [10] * 3)
        assert torch.equal(images, torch.stack([store.image(5), store.image(3), store.image(0)]))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.booleans()), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_a_store_equals_a_list_of_images(rows: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Sizes and broken ones as drawn, against a plain list where the next good image replaces a broken one."""
    rows[0] = (*rows[0][:2], True)
    drawn = [torch.randint(256, (h, w, 3), dtype=torch.uint8) if good else None for h, w, good in rows]
    images = [None if image is None else image.permute(2, 0, 1) for image in drawn]
    sizes = [(h, w) if good else (0, 0) for h, w, good in rows]
    lengths = [3 * h * w for h, w in sizes]
    pixels = torch.cat([image.flatten() for image in drawn if image is not None])
    bad = [(position, "why") for position, (_, _, good) in enumerate(rows) if not good]
    store = make_pixel_store(
        pixels, ImageIndex(sizes, lengths, [0] * len(sizes), bad), [str(number) for number in range(len(rows))]
    )
    doubled = images + images
    plain = [next(image for image in doubled[index:] if image is not None) for index in range(len(rows))]
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    batch, heights, widths = store.batch(torch.tensor(index))
    for image, height, width, row in zip(batch, heights.tolist(), widths.tolist(), index, strict=True):
        assert torch.equal(image[:, :height, :width], plain[row])


def test_broken_images_are_listed_and_the_next_good_one_stands_in(holed: ImageSet) -> None:
    store = fill(holed, short_side=None, where="disk", max_bad=0.2)
    assert store.broken == [(f"{row:02d}.jpg", "the file is empty") for row in (3, 4, 23)]
    assert torch.equal(store.image(3), store.image(5))
    assert torch.equal(store.image(4), store.image(5))
    assert torch.equal(store.image(23), store.image(0))
    by_decoding, _ = holed.readable_image(4)
    assert torch.equal(store.image(4), torch.from_numpy(np.asarray(by_decoding).copy()).permute(2, 0, 1))


def test_images_kept_as_jpeg_are_small_near_the_originals_and_found_again(
    holed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = CacheBuilder(images=holed, short_side=16, workers=1, max_bad=0.5)
    shrunk, bad = filling.jpeg_set()
    assert [name for name, _ in bad] == ["03.jpg", "04.jpg", "23.jpg"]
    assert (len(shrunk), shrunk.names, shrunk.fingerprint) == (COUNT, holed.names, holed.fingerprint)
    for index in range(COUNT):
        image, none_broken = shrunk.readable_image(index)
        original, _ = holed.readable_image(index, 16)
        wanted = downscale(original, 16)
        assert (image.size, none_broken) == (wanted.size, [])
        assert np.abs(np.asarray(image, float) - np.asarray(wanted, float)).mean() < 8
    monkeypatch.setattr(CacheBuilder, "decode_rest", None)
    again, _ = filling.jpeg_set()
    assert again.image(7).tobytes() == shrunk.image(7).tobytes()


@pytest.mark.parametrize("where", WHERE)
def test_too_many_broken_images_end_it_and_name_the_first(holed: ImageSet, where: Where) -> None:
    with pytest.raises(DataError, match=r"2 of 24 .*\n'03.jpg': the file is empty; '04.jpg'"):
        fill(holed, short_side=None, where=where, max_bad=0.05)
    fill(holed, short_side=None, where=where, max_bad=0.5)
    with pytest.raises(DataError, match="of 24"):
        fill(holed, short_side=None, where=where, max_bad=0.05)


def test_a_set_of_only_broken_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    with pytest.raises(DataError, match="None of the images"):
        fill(open_images([str(tmp_path)]), short_side=None, where="ram", max_bad=1.0)


def test_ten_kinds_of_difficult_files_are_used_or_listed_with_a_reason(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.new("RGB", (30, 20)).save(turned, "JPEG", exif=exif)
    moving = io.BytesIO()
    frames = [Image.new("P", (9, 9), value) for value in range(3)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    good = {
        "cmyk.jpg": jpeg(1, 30, 20, "CMYK"),
        "deep.png": png(Image.fromarray(np.full((20, 30), 40_000, np.uint16))),
        "dot.png": png(Image.new("RGB", (1, 1))),
        "moving.gif": moving.getvalue(),
        "turned.jpg": turned.getvalue(),
        "wrong-ending.png": jpeg(1, 30, 20),
    }
    bad = {"cut.jpg": jpeg(1, 30, 20)[:400], "html.jpg": b"<html>", "text.png": b"no image", "zero.jpg": b""}
    for name, data in (good | bad).items():
        (tmp_path / name).write_bytes(data)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    store = fill(open_images([str(tmp_path)], bit_depth=8), short_side=16, where="ram", max_bad=0.5)
    assert [name for name, _ in store.broken] == sorted(bad)
    assert all(reason and "\n" not in reason for _, reason in store.broken)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Deadly(NamedTuple):
    """An image reader that kills or hangs the process at one image, unless it is the test's own process."""

    at: int
    how: str
    own: int

    def image(self, row: int, min_side: int | None, pixel_format: PixelFormat) -> Image.Image:
        if row == self.at and os.getpid() != self.own:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "stuck":
                time.sleep(60)
            raise DataError("The archive has changed.")
        return Image.new("RGB", (4, 4))


def deadly(how: str) -> ImageSet:
    rows = np.stack([np.zeros(COUNT, np.int64), np.arange(COUNT)], axis=1)
    names = [f"{row}.png" for row in range(COUNT)]
    return ImageSet(names, torch.full((COUNT,), -1), (), "f", False, (Deadly(13, how, os.getpid()),), rows)


@pytest.mark.parametrize(("how", "message", "timeout"), [("killed", "died", 60), ("stuck", "did not respond", 3)])
def test_a_lost_worker_is_reported_with_the_file_it_was_at(how: str, message: str, timeout: int) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"{message}.*'13\.png'"):
        fill(deadly(how), short_side=None, where="ram", workers=2, timeout=timeout)
    assert time.monotonic() - start < 50


def test_an_error_in_a_worker_comes_back_as_it_was() -> None:
    with pytest.raises(DataError, match=r"^The archive has changed\.$"):
        fill(deadly("changed"), short_side=None, where="ram", workers=1)


def test_a_store_on_disk_is_found_again_and_not_decoded(ragged: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fill(ragged, short_side=12, where="disk")

    def refuse(*args: object) -> Image.Image:
        raise UnreadableImageError("decoded again")

    monkeypatch.setattr(ImageSet, "image", refuse)
    assert same(first, fill(ragged, short_side=12, where="disk"))
    with pytest.raises(DataError, match="decoded again"):
        fill(ragged, short_side=13, where="disk")


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (name, harm)
        for name in (disk.CONTENT_FILE, disk.INDEX_FILE, disk.MANIFEST_FILE)
        for harm in ("cut", "flip", "remove")
    ],
)
def test_a_store_that_is_not_whole_is_made_anew(ragged: ImageSet, name: str, harm: str) -> None:
    first = fill(ragged, short_side=12, where="disk")
    path = disk.disk_cache_folder(ragged, 12) / name
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.unlink()
    if harm != "remove":
        path.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    assert same(first, fill(ragged, short_side=12, where="disk"))
    assert all(torch.equal(first.image(index), expected(ragged, index, 12)) for index in range(COUNT))


FILL = """
import sys
from lwcl.data.cache import decode_all, disk
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import open_images
decode_all.CHUNK_IMAGES, disk.SYNC_BYTES = 5, 1000
CacheBuilder(images=open_images([sys.argv[1]]), short_side=None, max_bad=0.5).pixel_store("disk")
"""


@pytest.mark.parametrize("point", ["cache.index@1", "cache.index@4", "cache.rename@1"])
def test_a_killed_filling_goes_on_where_it_was(
    holed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], env=os.environ | {"LWCL_CRASH_AT": point}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    decoded: list[int] = []
    plain = ImageSet.image

    def noted(images: ImageSet, index: int, min_side: int | None = None) -> Image.Image:
        decoded.append(index)
        return plain(images, index, min_side)

    monkeypatch.setattr(CacheEstimate, "__init__", lambda self, images, short_side: None)
    monkeypatch.setattr(CacheEstimate, "pixel_bytes", COUNT)
    monkeypatch.setattr(ImageSet, "image", noted)
    store = fill(holed, short_side=None, where="disk", max_bad=0.5)
    done = {"cache.index@1": 0, "cache.index@4": 10, "cache.rename@1": COUNT}[point]
    assert decoded == list(range(done, COUNT))
    assert same(store, fill(holed, short_side=None, where="ram", max_bad=0.5))


def test_pixels_lost_with_the_power_are_decoded_anew(ragged: ImageSet) -> None:
    store = fill(ragged, short_side=None, where="disk")
    folder = disk.disk_cache_folder(ragged, None)
    unfinished = folder.with_suffix(".part")
    folder.rename(unfinished)
    (unfinished / disk.MANIFEST_FILE).unlink()
    os.truncate(unfinished / disk.CONTENT_FILE, 100)
    assert same(store, fill(ragged, short_side=None, where="disk"))


def test_two_processes_that_want_the_same_store_fill_it_once(ragged: ImageSet, tmp_path: Path, cache: Path) -> None:
    with wait_for_lock(disk.disk_cache_folder(ragged, None).with_suffix(".lock")):
        other = subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path)])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(3)
    assert other.wait(30) == 0
    assert not list((cache / "store").glob("*.part"))


def test_a_cache_folder_that_cannot_be_written_is_a_storage_error(
    ragged: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LWCL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError, match="Cannot write"):
        fill(ragged, short_side=None, where="disk")


def test_bytes_needed_is_exact_when_all_are_sampled(ragged: ImageSet) -> None:
    assert CacheEstimate(ragged, 12).pixel_bytes == len(fill(ragged, short_side=12, where="ram").pixels)


class Wanted(NamedTuple):
    """A `CacheEstimate` of given sizes."""

    pixel_bytes: int
    jpeg_bytes: int = 9
    is_downscaled: bool = True
    kept: int = 0

    def cached_bytes(self, form: str) -> int:
        return self.kept


@pytest.mark.parametrize(
    ("wanted", "where"),
    [
        (Wanted(50), "ram"),
        (Wanted(51), "disk"),
        (Wanted(160), "disk"),
        (Wanted(161, jpeg_bytes=160), "jpeg"),
        (Wanted(161, jpeg_bytes=160, is_downscaled=False), "off"),
        (Wanted(999, jpeg_bytes=161), "off"),
        (Wanted(161, kept=2), "disk"),  # an interrupted run goes on with what it has kept
        (Wanted(999, jpeg_bytes=180, kept=100), "jpeg"),
    ],
)
def test_the_cache_is_chosen_by_memory_then_by_disk(wanted: Wanted, where: str) -> None:
    choice = choose_cache("auto", wanted, memory=100, disk=200)
    assert choice.where == where
    assert f"{wanted.pixel_bytes} bytes" in choice.message or where == "jpeg"
    assert choose_cache("off", wanted, memory=100, disk=200).where == "off"


def test_a_cache_that_cannot_fit_is_refused() -> None:
    wanted = Wanted(101, jpeg_bytes=51)
    assert choose_cache("ram", wanted, memory=101, disk=0).where == "ram"
    assert choose_cache("jpeg", wanted, memory=0, disk=51).where == "jpeg"
    assert choose_cache("disk", wanted._replace(kept=101), memory=0, disk=0).where == "disk"
    with pytest.raises(DataError, match="100 bytes of memory"):
        choose_cache("ram", wanted, memory=100, disk=1000)
    with pytest.raises(StorageError, match=r"101 bytes .* 100 bytes free[^!]*--cache jpeg"):
        choose_cache("disk", wanted, memory=1000, disk=100)
    with pytest.raises(StorageError, match=r"51 bytes as JPEG .* 50 bytes free[^!]*--cache off"):
        choose_cache("jpeg", wanted, memory=1000, disk=50)


def test_an_unfinished_store_counts_as_held(ragged: ImageSet) -> None:
    sample = CacheEstimate(ragged, 12)
    assert (sample.cached_bytes("pixels"), sample.cached_bytes("jpeg")) == (0, 0)
    store = fill(ragged, short_side=12, where="disk")
    assert (sample.cached_bytes("pixels"), sample.cached_bytes("jpeg")) == (len(store.pixels), 0)
    folder = disk.disk_cache_folder(ragged, 12)
    folder.rename(folder.with_suffix(".part"))
    assert sample.cached_bytes("pixels") == len(store.pixels)
    assert sample.is_downscaled
    assert not CacheEstimate(ragged, 100).is_downscaled
    assert not CacheEstimate(ragged, None).is_downscaled


def test_kept_images_that_vanish_in_use_are_told_of_as_such(ragged: ImageSet) -> None:
    shrunk, _ = CacheBuilder(images=ragged, short_side=12).jpeg_set()
    os.truncate(disk.disk_cache_folder(ragged, 12, "jpeg") / disk.CONTENT_FILE, 1000)
    with pytest.raises(StorageError, match="image cache"):
        shrunk.image(COUNT - 1)
    (disk.disk_cache_folder(ragged, 12, "jpeg") / disk.CONTENT_FILE).unlink()
    with pytest.raises(StorageError, match="No such file"):
        shrunk.image(0)


def test_a_comment_that_no_jpeg_can_hold_is_left_out(tmp_path: Path) -> None:
    Image.new("P", (9, 9), 3).save(tmp_path / "talkative.gif", "GIF", comment=b"x" * 70_000)
    images = open_images([str(tmp_path)])
    assert images.image(0).info["comment"]
    assert CacheEstimate(images, 8).jpeg_bytes < 5000
    shrunk, _ = CacheBuilder(images=images, short_side=8).jpeg_set()
    assert shrunk.image(0).size == (8, 8)
    assert "comment" not in shrunk.image(0).info


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("", {}, 8000 * 1024),
        ("0::/a/b\n", {"a/memory.max": "5000", "a/memory.current": "2000", "a/memory.stat": "inactive_file 500"}, 3500),
        ("0::/a/b\n", {"a/memory.max": "max", "a/memory.current": "1", "a/memory.stat": ""}, 8000 * 1024),
        ("0::/\n", {"memory.max": "900", "memory.current": "1000", "memory.stat": "anon 1"}, 0),
        (
            "4:cpu,memory:/c\n",
            {
                "memory/c/memory.limit_in_bytes": "700",
                "memory/c/memory.usage_in_bytes": "300",
                "memory/c/memory.stat": "total_inactive_file 50",
            },
            450,
        ),
    ],
)
def test_available_memory_respects_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], left: int
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert available_memory(tmp_path) == left
    assert available_memory() > 0


def test_decoding_for_a_store_and_alone_agree(ragged: ImageSet) -> None:
    store = fill(ragged, short_side=8, where="ram")
    small = downscale(decode(jpeg(2, 22, 38), min_side=8), 8)
    assert np.array_equal(store.image(2).permute(1, 2, 0), np.asarray(small))
