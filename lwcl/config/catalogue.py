"""The lists of `lwcl list`: architectures, teachers, methods, recipes, augmentations, protocols, data sets.

Nothing here imports timm.
"""

import dataclasses
import fnmatch
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from lwcl.config.augmentation import AUGMENTATIONS
from lwcl.config.citation import CitedValue, PublishedRecipe
from lwcl.config.probe_protocols import PROTOCOLS
from lwcl.config.recipe_words import RECIPE_WORDS
from lwcl.config.recipes import RECIPES, SMALL_DATA_IMAGES, SMALL_DATA_OVERRIDES, TESTED_ARCHS, Optimization
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.formatting import plural
from lwcl.methods.method import methods
from lwcl.models.archs import VIDEO_ARCHS, known_archs
from lwcl.models.teachers import known_teachers
from lwcl.settings import unknown_name_error

DATASETS = {
    "textures": "3,960 generated textures of 64 x 64 pixels, built in: the default without --data; no network",
    "digits": "1,797 handwritten digits, built in: no files, no network",
    "tv/NAME:ROOT": "a torchvision data set in the folder ROOT, such as tv/cifar10:~/data; --download fetches it",
    "FOLDER": "images in class folders, nested folders or none; subfolders train and val are recognised",
    "LIST.txt": "one image path per line",
    "ARCHIVE.zip, ARCHIVE.tar": "read in place; several can be given",
    "hf/PATH, hf/NAME": "a data set of Hugging Face on the disk or in its cache; --download fetches it",
    "TABLE.parquet": "Parquet with a column of images, and of labels",
    "SET.npz, IMAGES.npy": "a whole set as NumPy arrays: train_images, train_labels, val_images, ...; or (N, H, W, C)",
    "'SHARD-{0000..0099}.tar', 'SHARD-*.tar'": "tar shards as one data set, with WebDataset's labels (.cls, .json)",
}

WORDS_WIDTH = 80  # columns


class CatalogueEntry(NamedTuple):
    """An entry of a list: its name, a description, its settings, each with a value and a note, and more in words."""

    name: str
    about: str
    details: tuple[tuple[str, Any, str], ...] = ()
    words: str = ""


def list_archs() -> list[CatalogueEntry]:
    """Every model of timm, those with tests of their own first."""
    others = [CatalogueEntry(name, "") for name in (*VIDEO_ARCHS, *known_archs()[1]) if name not in TESTED_ARCHS]
    return [CatalogueEntry(name, "tested: trained, exported, reloaded") for name in TESTED_ARCHS] + others


def list_teachers() -> list[CatalogueEntry]:
    """The models of timm that learned without class labels, as `--teacher` takes them, with their licences first."""
    return [CatalogueEntry(f"timm/{teacher.name}", teacher.about) for teacher in known_teachers()]


def list_methods() -> list[CatalogueEntry]:
    """Every method with its settings and their defaults."""
    return [
        CatalogueEntry(
            name,
            f"{kind.command}: {' '.join((kind.__doc__ or '').partition(chr(10) * 2)[0].split())}",
            tuple((field.name, field.default, field.metadata["help"]) for field in dataclasses.fields(kind)),
        )
        for name, kind in methods().items()
    ]


def list_recipes() -> list[CatalogueEntry]:
    """Every recipe with its settings and their sources, those for single architectures last."""
    return [
        CatalogueEntry(
            name,
            recipe.about,
            (
                ("method", recipe.method, ""),
                *cited_details(recipe.settings),
                *(
                    line
                    for arch, settings in recipe.archs.items()
                    for line in cited_details(settings, f" (for {arch})")
                ),
                *small_data_details(recipe),
            ),
            RECIPE_WORDS.get(name, ""),
        )
        for name, recipe in RECIPES.items()
    ]


def small_data_details(recipe: PublishedRecipe) -> list[tuple[str, Any, str]]:
    """What is used instead on few images, unless the recipe is for these."""
    verb = methods()[recipe.method].command
    changes = {} if recipe.for_small_data else SMALL_DATA_OVERRIDES[verb]
    known = {
        field.name
        for cls in (methods()[recipe.method], Optimization, TRAIN_OPTIONS[verb])
        for field in dataclasses.fields(cls)
    }
    mine = {name: one for name, one in changes.items() if name in known}
    return [(name, one.value, f"below {SMALL_DATA_IMAGES:,} images: {one.source}") for name, one in mine.items()]


def cited_details(settings: dict[str, CitedValue], note: str = "") -> list[tuple[str, Any, str]]:
    """Settings of a recipe as details: name, value, source."""
    return [(name, entry.value, entry.source + note) for name, entry in settings.items()]


def list_augmentations() -> list[CatalogueEntry]:
    """Every named augmentation with its values."""
    return [
        CatalogueEntry(
            name,
            plural(len(values), "setting") if values else "no augmentation: the center crop",
            tuple((setting, value, "") for setting, value in values.items()),
        )
        for name, values in AUGMENTATIONS.items()
    ]


def list_protocols() -> list[CatalogueEntry]:
    """Every protocol of `lwcl probe` with its settings and their sources."""
    return [
        CatalogueEntry(name, protocol.about, tuple(cited_details(protocol.settings)))
        for name, protocol in PROTOCOLS.items()
    ]


def list_datasets() -> list[CatalogueEntry]:
    """The values of `--data`."""
    return [CatalogueEntry(name, about) for name, about in DATASETS.items()]


CATALOGUES: dict[str, Callable[[], list[CatalogueEntry]]] = {
    "archs": list_archs,
    "teachers": list_teachers,
    "methods": list_methods,
    "recipes": list_recipes,
    "augmentations": list_augmentations,
    "protocols": list_protocols,
    "datasets": list_datasets,
}


def find_entries(what: str, pattern: str = "") -> list[CatalogueEntry]:
    """The entries of a list whose name contains or matches (`*vit*`) `pattern`; an exact match comes alone.

    Raises `UsageError` for an unknown list or without a match.
    """
    if what not in CATALOGUES:
        raise unknown_name_error("list", what, CATALOGUES)
    entries = CATALOGUES[what]()
    matches = [entry for entry in entries if pattern in entry.name or fnmatch.fnmatch(entry.name, pattern)]
    if not matches:
        names = [entry.name for entry in entries]
        raise unknown_name_error(f"name in {what}", pattern, names, f"`lwcl list {what}` shows them all.")
    return [entry for entry in matches if entry.name == pattern] or matches


def format_entries(entries: list[CatalogueEntry]) -> str:
    """Entries as lines of text: name and description; a single entry with its settings below."""
    width = max(len(entry.name) for entry in entries)
    lines = [f"{entry.name:<{width}}  {entry.about}".rstrip() for entry in entries]
    if len(entries) == 1:
        lines += textwrap.wrap(entries[0].words, WORDS_WIDTH, initial_indent="  ", subsequent_indent="  ")
        details = entries[0].details
        wide = [max((len(str(detail[column])) for detail in details), default=0) for column in (0, 1)]
        lines += [f"  {name:<{wide[0]}}  {value!s:<{wide[1]}}  {note}".rstrip() for name, value, note in details]
    return "\n".join(lines)
