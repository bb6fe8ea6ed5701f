"""A finished run, read from its folder: its report, settings and metrics."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lwcl.errors import UsageError
from lwcl.formatting import duration, percent
from lwcl.reporting.knn import EncoderResult, format_gain, format_interval
from lwcl.runs.folder import RunFolder
from lwcl.runs.guard import require_current_format

SCORE_COLUMNS = (
    *("Run", "Method", "Architecture", "Epochs", "kNN top-1", "95% interval", "vs. untrained", "Effective rank"),
    *("Images/s", "Time"),
)


class FinishedRun:
    """The report of a finished run as JSON, and its metrics. Raises `UsageError` where the folder has none.

    `rows` are the kNN accuracies of its report, that of its own encoder first; `scores` those of its encoder by the
    images that they were measured on: those of `lwcl knn`, then the one of its report; `checksums` the SHA-256 of its
    files by name.
    """

    def __init__(self, name: str) -> None:
        self.name, folder = name, RunFolder(Path(name))
        require_current_format(folder.path, "Train it again with this version.")
        try:
            self.report: dict[str, Any] = json.loads(folder.report_json.read_text(encoding="utf-8"))
            self.settings = {key: entry["value"] for key, entry in self.report["settings"].items()}
            self.facts: Mapping[str, Any] = dict(self.report["facts"])
            self.rows = [EncoderResult(**row) for row in self.facts.get("knn", ())]
            self.scores = dict(self._scores(folder.path))
            self.checksums: dict[str, str] = dict(self.facts.get("SHA-256", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{name} is not a finished run: its report.json cannot be read.",
                f"{type(error).__name__}: {error}",
                "Give folders of finished runs.",
            ) from error
        self.metrics = folder.metrics()

    def _scores(self, folder: Path) -> Iterator[tuple[str, EncoderResult]]:
        for file in sorted(folder.glob("knn*/report.json"), reverse=True):
            facts = json.loads(file.read_bytes())["facts"]
            mine = (row for row in facts["encoders"] if Path(row["name"]).name == folder.name)
            if "judged images" in facts and (row := next(mine, None)):
                yield facts["judged images"], EncoderResult(**row)
        for row in self.rows[:1]:
            here = f"{self.facts.get('data')} {self.settings.get('monitor')}"
            yield self.facts.get("judged images") or here, row

    def row(self, images: str) -> tuple[Any, ...]:
        """The run as a row of a table with `SCORE_COLUMNS`, with its accuracy on these images, or else on its own."""
        knn = self.scores.get(images) or next(reversed(self.scores.values()), None)
        timing, last = self.facts.get("timing", {}), self.facts.get("last", {})
        seconds, speed, rank = timing.get("seconds"), timing.get("images_per_second"), last.get("effective_rank")
        return (
            self.name,
            self.facts.get("method"),
            self.facts.get("architecture"),
            self.facts.get("epochs"),
            percent(knn.top1) if knn else None,
            format_interval(knn.top1_interval) if knn else None,
            format_gain(knn.gain) if knn else None,
            None if rank is None else round(rank, 1),
            None if speed is None else round(speed),
            None if seconds is None else duration(seconds),
        )
