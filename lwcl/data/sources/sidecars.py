"""Labels that lie beside images in WebDataset's layout: `key.jpg` with `key.cls`, or a field of `key.json`."""

import json
from collections.abc import Callable, Iterator, Mapping

from lwcl.data.sources.files import SIZE, FileEntry
from lwcl.data.sources.lists import LABEL_COLUMNS
from lwcl.data.sources.packed import Coded, PackedNames
from lwcl.formatting import plural

LABEL_SUFFIXES = (".cls", ".json")
MAX_LABEL_BYTES = 2**20  # of a file that is read for a label
MAX_LABEL_LENGTH = 200  # characters of a class


def is_label_name(name: str) -> bool:
    """Whether a member may hold the label of an image."""
    return name.endswith(LABEL_SUFFIXES)


def sample_key(name: str) -> str:
    """What the members of a sample share: the path up to the first dot of its last part."""
    above, slash, last = name.rpartition("/")
    return above + slash + last.partition(".")[0]


def label_of_json(data: bytes) -> str:
    """The label that a JSON object holds under one of the usual names, or ""."""
    try:
        fields = json.loads(data)
    except ValueError:
        return ""
    if not isinstance(fields, dict):
        return ""
    named = (fields.get(name) for name in ("cls", *LABEL_COLUMNS))
    return next((str(label).strip() for label in named if isinstance(label, str | int) and label != ""), "")


def label_of_text(data: bytes) -> str:
    """The label that a .cls file holds."""
    return data.decode("utf-8", "replace").strip()


READERS: dict[str, Callable[[bytes], str]] = {".cls": label_of_text, ".json": label_of_json}


def sidecar_labels(
    names: PackedNames, beside: Mapping[str, FileEntry], read: Callable[[FileEntry], bytes]
) -> Coded | None:
    """The label of each image from the members `beside` them, "" where there is none; None without any label."""
    labels: dict[str, str] = {}
    for suffix in LABEL_SUFFIXES:  # the first that labels a sample counts
        for name, entry in beside.items():
            if name.endswith(suffix) and entry[SIZE] <= MAX_LABEL_BYTES and (key := sample_key(name)) not in labels:
                label = READERS[suffix](read(entry))[:MAX_LABEL_LENGTH]
                if label:
                    labels[key] = label
    return Coded.of([labels.get(sample_key(name), "") for name in names]) if labels else None


def label_notes(where: str, labels: Coded) -> Iterator[str]:
    """What is to be said of such labels."""
    classes, missing = len(labels.present - {""}), labels.count("")
    without = f"; {missing:,} of {plural(len(labels), 'image')} have none" if missing else ""
    number = plural(classes, "class", "classes")
    yield f"{where}: labels are those of .cls or .json files beside the images ({number}){without}."
