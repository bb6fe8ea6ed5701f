"""A bit is flipped, or the end cut off, in each kind of file that lwcl reads: found, harmless, or said; no bug."""

import functools
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crash import KILLED
from kills import Unbroken, go, way
from runs import made_images
from trials import BrokenPromiseError, trial

from lwcl.checkpoints import training_state
from lwcl.checkpoints.encoder_file import save_encoder
from lwcl.checkpoints.load import load_encoder
from lwcl.data.cache.build import CacheBuilder
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.decode import UnreadableImageError
from lwcl.errors import LwclError
from lwcl.evaluation.embedding_file import EmbeddingSet, read_embeddings, write_embeddings
from lwcl.models.encoder import Encoder
from lwcl.models.loaded import InputSpec
from lwcl.system.atomic_files import cache_folder
from lwcl.training.teacher_cache import TeacherCache

EACH = 20  # files that a case damages
DAMAGES = 260  # 208 flipped bits and 52 cut ends
COUNT = 12


def files_in(folder: Path) -> list[Path]:
    """The files below a folder that hold something."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def try_damage(case: int, files: list[Path], check: Callable[[], bool], each: int = EACH) -> int:
    """Damage files one after the other; `check` says whether it was found or harmless. How much was tried."""
    broken = [what for what in damaged(case, files, each) if not check()]
    if broken:
        raise BrokenPromiseError(broken)
    return each


def damaged(case: int, files: list[Path], each: int = EACH) -> Iterator[str]:
    """Damage one of the files after the other, and mend it again; what was done.

    Four of five times a bit is flipped (every other one in the first or last 300 bytes), else the end is cut off.
    """
    draw = random.Random(case)  # noqa: S311  # no secret
    for number in range(each):
        path = files[(case * each + number) % len(files)]
        whole = path.read_bytes()
        data = bytearray(whole)
        near = draw.choice((draw.randrange(min(300, len(data))), -1 - draw.randrange(min(300, len(data)))))
        place = (near if number % 2 else draw.randrange(len(data))) % len(data)
        if number % 5:
            data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data if number % 5 else whole[:place])
        yield f"{path.name}: {'a bit of byte' if number % 5 else 'cut at'} {place} of {len(whole)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)


def pixels_of(images: ImageSet) -> list[Any]:
    """The pixels of all images, or that they are unreadable."""
    found: list[Any] = []
    for number in range(len(images)):
        try:
            found.append(np.asarray(images.image(number)).tobytes())
        except UnreadableImageError:
            found.append("unreadable")
    return found


def flips(name: str, what: str) -> Callable[[Any], Any]:
    """A trial of damage to one kind of file."""
    return trial(f"T9-{name}", f"a flipped bit or a cut end in {what}", DAMAGES // EACH, tries=EACH)


@trial("T9", "a flipped bit or a cut end in a checkpoint: the one before is used", DAMAGES // EACH, tries=EACH,
       prepare=lambda folder: half_a_run(folder))  # fmt: skip
def checkpoints(case: int, folder: Path, half: tuple[Unbroken, Path]) -> int:
    """Read the newest checkpoint that is whole."""
    place = shutil.copytree(half[1] / "run" / "checkpoints", folder / "checkpoints")
    for what in damaged(case, files_in(place / "step-000009")):
        told: list[str] = []
        found = training_state.latest_checkpoint(place, told.append)
        assert found is not None and found.step == 6 and len(told) == 1, what
        shutil.rmtree(place / "corrupt-step-000009")
        shutil.copytree(half[1] / "run" / "checkpoints" / "step-000009", place / "step-000009", dirs_exist_ok=True)
    return EACH


def half_a_run(folder: Path) -> tuple[Unbroken, Path]:
    """An unbroken run, and where one was killed at step 10, with its cache."""
    (run,) = way(folder, "disk")
    assert go(run.again(folder / "half" / "run"), folder / "half" / "cache", "metrics.append@11") == KILLED
    return run, folder / "half"


@trial("T9-run", "the same in any file of a killed run or its cache: same bits, or an error that says what to do", 60,
       half_a_run)  # fmt: skip
def whole_runs(case: int, folder: Path, half: tuple[Unbroken, Path]) -> None:
    """Resume a run of which a file is damaged."""
    place = shutil.copytree(half[1], folder / "half")
    files = [path for path in files_in(place) if path.name not in ("log.txt", "command.txt", "env.json", ".lock")]
    for what in damaged(case, files, each=1):
        print(what)
        code = go(half[0].again(place / "run"), place / "cache")
        if code:
            assert code in (2, 4, 5), f"{what}: exit code {code}"
        else:
            half[0].must_end_so(place / "run", place / "cache")


def refused(work: Callable[[], bool]) -> bool:
    """Whether `work` finds all as it was, or refuses in words."""
    try:
        return work()
    except LwclError:
        return True


@flips("encoder", "encoder.safetensors: refused")
def encoder_files(case: int, folder: Path, prepared: None) -> int:
    """Load an encoder."""
    place = folder / "encoder.safetensors"
    save_encoder(place, Encoder("test_efficientnet", (16, 8)), InputSpec.for_arch("test_efficientnet", 32), {"a": 1})
    whole = load_encoder(str(place))

    def is_same() -> bool:
        found = load_encoder(str(place))
        same = all(map(torch.equal, found.encoder.state_dict().values(), whole.encoder.state_dict().values()))
        return same and (found.input_spec, found.metadata) == (whole.input_spec, whole.metadata)

    return try_damage(case, [place], lambda: refused(is_same))


@flips("pixels", "cached pixels: decoded again, the same")
def cached_pixels(case: int, folder: Path, prepared: None) -> int:
    """Open a cache of pixels."""
    images = open_images([str(made_images(folder / "images", COUNT))])
    builder = CacheBuilder(images=images, short_side=16)
    whole = builder.pixel_store("disk").pixels.clone()
    files = files_in(cache_folder() / "store")
    return try_damage(case, files, lambda: torch.equal(builder.pixel_store("disk").pixels, whole))


@flips("jpegs", "cached JPEGs: made again, the same")
def cached_jpegs(case: int, folder: Path, prepared: None) -> int:
    """Open a cache of shrunk JPEGs."""
    images = open_images([str(made_images(folder / "images", COUNT, suffix=".jpg"))])
    builder = CacheBuilder(images=images, short_side=16)
    whole = pixels_of(builder.jpeg_set()[0])
    files = files_in(cache_folder() / "store")
    return try_damage(case, files, lambda: pixels_of(builder.jpeg_set()[0]) == whole)


@flips("teacher", "cached teacher outputs: computed again, or refused with the folder's name")
def teacher_outputs(case: int, folder: Path, prepared: None) -> int:
    """Open a cache of a teacher's outputs."""
    open_cache = functools.partial(TeacherCache.open, {"teacher": "abc"}, (2, 10, 3), torch.float32, folder / "teacher")

    def outputs() -> list[torch.Tensor]:
        cache = open_cache()
        cache.fill(lambda crop, index: torch.stack([index + crop / 8] * 3, 1), 3, lambda done, count: None)
        return [cache.whole(crop).clone() for crop in range(2)]

    whole = outputs()
    files = files_in(folder / "teacher")
    return try_damage(case, files, lambda: refused(lambda: all(map(torch.equal, outputs(), whole))))


def packed(folder: Path, kind: str) -> Path:
    """Made images in an archive."""
    made_images(folder / "images", COUNT, ("a", "b"))
    if kind == "tar":
        with tarfile.open(folder / "images.tar", "w") as archive:
            archive.add(folder / "images", ".")
    else:
        with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files_in(folder / "images"):
                archive.write(path, path.relative_to(folder / "images"))
    return folder / f"images.{kind}"


def must_be_read_right(case: int, place: Path, checksums: bool = True) -> int:
    """Damage an archive: an error, or no image is missing without a word, and each is the same or unreadable.

    Without `checksums` of what it holds, the pixels of an image may differ: nobody could tell.
    """
    whole = open_images([str(place)])
    pixels = dict(zip(whole.names, pixels_of(whole), strict=True))

    def is_right() -> bool:
        shutil.rmtree(cache_folder() / "index", ignore_errors=True)
        found = open_images([str(place)])
        told = len(found) == COUNT or bool(found.notes)
        read = zip(found.names, pixels_of(found), strict=True)
        same = (data in ("unreadable", pixels.get(name, data)) for name, data in read)
        return told and (all(same) or not checksums)

    return try_damage(case, [place], lambda: refused(is_right))


@flips("zip", "a zip: an error, or each image is the same or unreadable")
def zips(case: int, folder: Path, prepared: None) -> int:
    """Read all images of a zip."""
    return must_be_read_right(case, packed(folder, "zip"))


@flips("tar", "a tar, which has no checksum of its content: an error, or no image is missing")
def tars(case: int, folder: Path, prepared: None) -> int:
    """Read all images of a tar."""
    return must_be_read_right(case, packed(folder, "tar"), checksums=False)


@flips("index", "the index of an archive: listed again, the same")
def archive_index(case: int, folder: Path, prepared: None) -> int:
    """List an archive."""
    place = packed(folder, "tar")

    def listed() -> tuple[list[str], str]:
        images = open_images([str(place)])
        return list(images.names), images.fingerprint  # copied: they lie in the file that is damaged

    whole = listed()
    return try_damage(case, files_in(cache_folder() / "index"), lambda: listed() == whole)


@flips("embeddings", "a file of embeddings (.npy with its names, .npz): refused")
def embedding_files(case: int, folder: Path, prepared: None) -> int:
    """Read embeddings."""
    rows = np.random.default_rng(0).normal(size=(COUNT, 16)).astype(np.float32)
    made = EmbeddingSet(rows, [f"{n}.png" for n in range(COUNT)], ["a"] * COUNT, {"encoder": "x", "width": 16})
    place = folder / f"e.{('npy', 'npz')[case % 2]}"
    write_embeddings(place, made)
    whole = read_embeddings(place)
    kept = np.array(whole.rows)

    def is_same() -> bool:
        found = read_embeddings(place)
        return found[1:] == whole[1:] and np.array_equal(found.rows, kept)

    files = [path for path in files_in(folder) if path.name.startswith("e.")]
    return try_damage(case, files, lambda: refused(is_same))


@trial("T9-verify", "the same in encoder, export, checkpoint or report of a finished run: `lwcl verify` names it", 60,
       lambda folder: way(folder, "light"))  # fmt: skip
def verified(case: int, folder: Path, runs: list[Unbroken]) -> None:
    """Verify a run."""
    assert go(runs[0].again(folder / "run"), folder / "cache") == 0
    kept = [folder / "run" / name for name in ("encoder.safetensors", "export/model.safetensors", "export/config.json")]
    for what in damaged(case, [*kept, *files_in(folder / "run" / "checkpoints")], each=EACH // 2):
        code = go(["verify", str(folder / "run"), "--json"], folder / "cache")
        assert code in (2, 5), f"{what}: exit code {code}"
