"""Labels of images from a table of its own (`--labels labels.csv`): paths or names, each with its class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lwcl.data.sources.lists import ListedFile, NameIndex, read_list
from lwcl.data.sources.packed import Coded
from lwcl.data.sources.splits import OTHER_SPLIT, SPLIT_BY_FOLDER_NAME, is_folder_level
from lwcl.errors import DataError, UsageError
from lwcl.formatting import plural
from lwcl.settings import expand_home


class LabelTable(NamedTuple):
    """The rows of a table of labels."""

    path: str
    rows: tuple[ListedFile, ...]

    @classmethod
    def open(cls, labels: str) -> "LabelTable | None":
        """The table that `--labels` names; None for a level of folders. Raises `UsageError` and `DataError`."""
        if is_folder_level(labels.strip().lower()):
            return None
        path = expand_home(labels)
        if not os.path.exists(path):
            remedy = (
                "Give top, leaf, the level of the class folders from 1, none, or a table of path,label that exists."
            )
            raise UsageError(f"--labels: got {labels!r}.", remedy=remedy)
        rows = read_list(Path(path))
        if not any(row.label for row in rows):
            remedy = "Give a table whose columns are path and label, such as a .csv."
            raise DataError(f"--labels {labels}: no row of it has a label.", remedy=remedy)
        return cls(labels, rows)

    def layout(
        self, names: Sequence[str], splits: Coded, notes: tuple[str, ...]
    ) -> tuple[Coded, Coded, tuple[str, ...]]:
        """Splits, the folders' unless the table has some, and classes of images; `notes` and what is to be said.

        Raises `DataError` if the table names none of them.
        """
        index, labels, parts, unknown, again = NameIndex(names), [""] * len(names), [""] * len(names), 0, 0
        for row in self.rows:
            place = index.find(row.path)
            if place is None:
                unknown += 1
            elif labels[place] not in ("", row.label):
                again += 1
            else:
                labels[place], parts[place] = row.label, row.split
        if not any(labels):
            raise DataError(
                f"--labels {self.path}: none of its {plural(len(self.rows), 'row')} names one of the images.",
                f"It has {self.rows[0].path!r}; the images have {names[0]!r}.",
                "Give paths below --data, or names that no two images share.",
            )
        told = Coded.of([SPLIT_BY_FOLDER_NAME.get(part.lower(), part and OTHER_SPLIT) for part in parts])
        return told if any(parts) else splits, Coded.of(labels), (*notes, *self.notes(labels, unknown, again))

    def notes(self, labels: Sequence[str], unknown: int, again: int) -> Iterator[str]:
        """What is to be said of the labels of the images, and of rows that name none or name one again."""
        known, number = sum(map(bool, labels)), plural(len({*labels} - {""}), "class", "classes")
        yield f"--labels {self.path}: {number}, of {known:,} of {plural(len(labels), 'image')}."
        if unknown:
            rows = plural(len(self.rows), "row")
            yield f"--labels {self.path}: no image, or more than one, for {unknown:,} of {rows}."
        if again:
            yield f"--labels {self.path}: another label of the same image in {plural(again, 'row')} is ignored."
