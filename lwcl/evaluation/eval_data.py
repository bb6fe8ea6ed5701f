"""The images on which encoders are evaluated: those named, else those of the runs; and what a report says of them."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lwcl.config.train_options import PIXELS, DataOptions
from lwcl.data.dataset import ImageSet
from lwcl.data.demo.builtin import BUILTIN_SETS, DEFAULT_SET
from lwcl.errors import UsageError
from lwcl.reporting.console import Screen
from lwcl.runs.guard import is_run, read_settings

Options = TypeVar("Options", bound=DataOptions)


def with_own_data(options: Options, encoders: Sequence[str], screen: Screen) -> Options:
    """The options with images: without --data the encoders are evaluated on those that their runs were trained on.

    Raises `UsageError` where these differ from run to run.
    """
    if options.data:
        return options
    runs = dict.fromkeys(run for name in encoders if (run := images_of_run(Path(name.partition("#")[0]))))
    found = {(run.data, run.reading.get("bands")) for run in runs}
    if len(found) > 1:
        sets = "; ".join(sorted(f"{' and '.join(data)}{f' (--bands {bands})' * bool(bands)}" for data, bands in found))
        raise UsageError(
            "The runs were trained on different images.", f"{sets}.", "Say which to evaluate on with --data."
        )
    data = next((run.data for run in runs), (DEFAULT_SET,))
    alike = {name: value for name, value in next(iter(runs)).reading.items() if read_alike(runs, name)} if runs else {}
    alike = {name: value for name, value in alike.items() if getattr(options, name) == getattr(DataOptions, name)}
    whose = "the run's own images" if runs else "the built-in images"
    screen.say(f"Without --data: {whose}, {' and '.join(data)}.")
    return dataclasses.replace(options, data=data, **alike)


class RunImages(NamedTuple):
    """What a run's student was trained on: paths as seen from here, and the settings of how pixels are read."""

    data: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]  # those that are not the default

    @property
    def reading(self) -> dict[str, Any]:
        """The settings by name."""
        return dict(self.settings)


def read_alike(runs: Iterable[RunImages], name: str) -> bool:
    """Whether runs read pixels alike, as far as a setting says."""
    return len({run.reading.get(name) for run in runs}) == 1


def images_of_run(path: Path) -> RunImages | None:
    """The images of the run whose folder, or a file in it, this is; None for anything else."""
    run = next((folder for folder in (path, *path.parents[:2]) if is_run(folder)), None)
    if run is None:
        return None
    settings = read_settings(run)
    data = settings.get("student_data") or settings.get("data") or [DEFAULT_SET]
    data = [data] if isinstance(data, str) else data
    own = [
        (name, value)
        for name in PIXELS
        if (value := settings.get(name, getattr(DataOptions, name))) != getattr(DataOptions, name)
    ]
    return RunImages(tuple(seen_from_here(str(spec), run) for spec in data), tuple(own))


def seen_from_here(spec: str, run: Path) -> str:
    """A path as the command of a run spelled it; where that leads nowhere, relative to that command's folder."""
    if spec in BUILTIN_SETS or Path(spec).expanduser().exists():
        return spec
    try:
        folder = json.loads((run / "env.json").read_bytes())["folder"]
        return str(there) if (there := Path(folder) / spec).exists() else spec
    except (OSError, ValueError, LookupError, TypeError):
        return spec


def pair_facts(bank: ImageSet, queries: ImageSet, data: Sequence[str], val: Sequence[str]) -> dict[str, Any]:
    """What a report says of the images: what they are wherever they lie, their fingerprints, and where they are."""
    return {
        "judged images": f"{bank.identity[:16]} {queries.identity[:16]}",
        "data": bank.fingerprint,
        "test data": queries.fingerprint,
        "evaluated on": list(data),
        "test images from": list(val),
    }
