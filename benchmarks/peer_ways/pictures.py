"""A folder of image files for all ways: of a folder or zip of photos, or drawn, so that nothing need be at hand."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from lwcl.data.demo.textures import draw_texture

SIDE = 224
GRAIN = 12.0  # of 255: makes files of 10 to 20 KB, as photos of this size are
ENDINGS = {".jpg", ".jpeg", ".png"}


def pictures(data: str | None, folder: Path, count: int) -> None:
    """Fills `folder` with up to `count` files of the folder or zip `data`, evenly spaced, or with drawn ones."""
    if data is None:
        draw_pictures(folder, count)
    elif zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            for place, name in enumerate(chosen(archive.namelist(), count)):
                (folder / f"{place:06d}{Path(name).suffix.lower()}").write_bytes(archive.read(name))
    else:
        for place, name in enumerate(chosen([str(file) for file in Path(data).rglob("*")], count)):
            shutil.copyfile(name, folder / f"{place:06d}{Path(name).suffix.lower()}")


def chosen(names: list[str], count: int) -> list[str]:
    """Up to `count` names of image files, evenly spaced; of training images where a folder `train` says which."""
    found = sorted(name for name in names if Path(name).suffix.lower() in ENDINGS)
    found = [name for name in found if "train" in Path(name).parts] or found
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in places]


def draw_pictures(folder: Path, count: int) -> None:
    """Textures, enlarged, with grain, as JPEG."""
    random = np.random.default_rng(0)
    for place in range(count):
        picture = np.asarray(
            Image.fromarray(draw_texture(place)).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32
        )
        grained = np.clip(picture + random.normal(0, GRAIN, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grained).save(folder / f"{place:06d}.jpg", quality=85)
