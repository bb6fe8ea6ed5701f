"""Experiment trackers beside the run folder: TensorBoard, Weights & Biases, MLflow; what they get is in the folder too.

A tracker that fails while a run trains is dropped with a warning: metrics.jsonl stays complete.
"""

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from lwcl.system.packages import require_package

TRACKER_EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """What every tracker does; a picture is an RGB image (H, W, 3) uint8."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Records numbers of a step."""

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """Records a picture."""

    def close(self) -> None:
        """Writes what is still in memory."""


class TensorBoard:
    """Event files in RUN/tensorboard; steps after the one that a run resumes from are dropped."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        writer = require_package("torch.utils.tensorboard", TRACKER_EXTRAS["tensorboard"]).SummaryWriter
        self.writer = writer(str(folder / "tensorboard"), purge_step=step + 1)
        lines = [f"    {name}: {value}" for name, value in settings.items()]
        self.writer.add_text("settings", "\n".join(lines), step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One curve for each name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """An image under its name."""
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes the event file."""
        self.writer.close()


class WandB:
    """Weights & Biases, offline in RUN/wandb unless WANDB_MODE says otherwise; send it by `wandb sync`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        self.package = require_package("wandb", TRACKER_EXTRAS["wandb"])
        self.run = self.package.init(
            project=os.environ.get("WANDB_PROJECT", "lwcl"),
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One row of the run's history."""
        self.run.log(dict(values), step=step)

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """An image in the run's history."""
        self.run.log({name: self.package.Image(pixels)}, step=step)

    def close(self) -> None:
        """Ends the run."""
        self.run.finish()


class MLflow:
    """MLflow: the store that MLFLOW_TRACKING_URI names, else files in RUN/mlruns; a resumed run continues its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses its file store without it
        store = os.environ.get("MLFLOW_TRACKING_URI") or (folder.resolve() / "mlruns").as_uri()
        self.client = require_package("mlflow", TRACKER_EXTRAS["mlflow"]).MlflowClient(store)
        name, place = os.environ.get("MLFLOW_EXPERIMENT_NAME", "lwcl"), str(folder.resolve())
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        earlier = (
            self.client.search_runs([experiment], f"tags.`lwcl.folder` = '{place}'", max_results=1) if step else []
        )
        tags = {"lwcl.folder": place}
        run = earlier[0] if earlier else self.client.create_run(experiment, run_name=folder.resolve().name, tags=tags)
        self.identity = run.info.run_id
        for setting, value in settings.items() if not earlier else ():
            self.client.log_param(self.identity, setting, str(value)[:500])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One curve for each name."""
        for name, value in values.items():
            self.client.log_metric(self.identity, name, value, step=step)

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """An artifact of the run."""
        self.client.log_image(self.identity, pixels, artifact_file=f"{name}.png")

    def close(self) -> None:
        """Marks the run as finished."""
        self.client.set_terminated(self.identity)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


class Trackers:
    """All trackers of a run; used as a context manager, it closes them."""

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        self.active, self.warn = dict(trackers), warn

    def scalars(self, record: Mapping[str, Any]) -> None:
        """Records the finite numbers of a line of metrics.jsonl."""
        known = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
        step = int(known.pop("step"))
        finite = {name: value for name, value in known.items() if math.isfinite(value)}
        self._tell(lambda tracker: tracker.scalars(finite, step))

    def picture(self, title: str, png: bytes, step: int) -> None:
        """Records a picture under the words of its title."""
        import numpy
        from PIL import Image

        pixels = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._tell(lambda tracker: tracker.picture(title.lower().replace(" ", "_"), pixels, step))

    def _tell(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.active.items()):
            try:
                action(tracker)
            except Exception as error:  # of somebody else's code, and hours of training are at stake
                del self.active[name]
                self.warn(f"--log {name} failed and is left out from here on: {type(error).__name__}: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        with contextlib.suppress(Exception):
            self._tell(lambda tracker: tracker.close())


def require_trackers(names: Iterable[str]) -> None:
    """Raises `UsageError` for a tracker whose package is not installed; before a run starts."""
    for name in names:
        require_package(name, TRACKER_EXTRAS[name])


def open_trackers(
    names: Iterable[str], folder: Path, settings: Mapping[str, Any], step: int, warn: Callable[[str], None]
) -> Trackers:
    """The trackers of a run in `folder` that continues after `step`. Raises `UsageError` where a package is missing."""
    return Trackers({name: TRACKERS[name](folder, settings, step) for name in dict.fromkeys(names)}, warn)
