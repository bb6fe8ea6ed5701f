"""The images on which encoders are evaluated: those named, else those of the runs; and what a report says of them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from lwcl.config.train_options import DataOptions
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
    found = {data for name in encoders if (data := data_of_run(Path(name.partition("#")[0])))}
    if len(found) > 1:
        sets = "; ".join(sorted(" and ".join(data) for data in found))
        raise UsageError(
            "The runs were trained on different images.", f"{sets}.", "Say which to evaluate on with --data."
        )
    data = next(iter(found), (DEFAULT_SET,))
    whose = "the run's own images" if found else "the built-in images"
    screen.say(f"Without --data: {whose}, {' and '.join(data)}.")
    return dataclasses.replace(options, data=data)


def data_of_run(path: Path) -> tuple[str, ...]:
    """The `--data` of the run whose folder, or a file in it, this is; as seen from here. Empty for anything else."""
    run = next((folder for folder in (path, *path.parents[:2]) if is_run(folder)), None)
    if run is None:
        return ()
    settings = read_settings(run)
    data = settings.get("student_data") or settings.get("data") or [DEFAULT_SET]
    return tuple(seen_from_here(str(spec), run) for spec in data)


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
