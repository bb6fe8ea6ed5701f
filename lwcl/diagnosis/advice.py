"""Advice that fits the run of an encoder: only settings that it has, and a command to paste."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from lwcl.config.plan import IMAGES
from lwcl.diagnosis.thresholds import Advice
from lwcl.errors import UsageError
from lwcl.methods.method import methods
from lwcl.runs.guard import is_run, read_settings


def advice_for_run(advice: Sequence[Advice], run: Path) -> tuple[Advice, ...]:
    """The advice that applies to a run, each with a command; all of it, without commands, for any other encoder."""
    try:
        settings = read_settings(run) if is_run(run) else {}
    except UsageError:
        settings = {}
    if settings.get("method") not in methods():
        return tuple(advice)
    known = placeholders(settings)
    fitting = (one for one in advice if advice_applies(one, settings, known))
    return tuple(one._replace(command=command_line(one, run, settings, known)) for one in fitting)


def advice_applies(advice: Advice, settings: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    """Whether a run has the settings that the advice changes, and they can be changed as it says."""
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+)", advice.flags)}
    return (
        flags <= settings.keys() and {name for _, name, _, _ in Formatter().parse(advice.flags) if name} <= known.keys()
    )


def placeholders(settings: Mapping[str, Any]) -> dict[str, str]:
    """Values to try instead of a run's, by name; without those of settings that it lacks or that need no change."""
    queue, images, found = settings.get("queue_size") or 0, settings.get(IMAGES) or {}, {}
    if settings.get("lr"):
        found = {"low_lr": f"{settings['lr'] / 3:.2g}", "long_warmup": f"{max(1, 2 * (settings.get('warmup') or 0)):g}"}
    if settings.get("key_momentum"):
        found["high_momentum"] = f"{1 - (1 - settings['key_momentum']) / 10:g}"
    if settings.get("epochs"):
        found["more_epochs"] = f"{2 * settings['epochs']:.10g}"
    if queue > images.get("count", queue):
        found["short_queue"] = str(max(1, images["count"] // 8))
    return found | {name: shlex.quote(str(settings[name])) for name in ("arch", "image_size") if settings.get(name)}


def command_line(advice: Advice, run: Path, settings: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """The command that does what the advice says, into a folder next to the run's."""
    flags, out = advice.flags.format(**known), shlex.quote(f"{run}-next")
    if advice.setting.startswith("lwcl distill"):
        data = "".join(f" --data {shlex.quote(str(one))}" for one in settings.get("data") or ())
        return f"lwcl distill{data} {flags} --out {out}"
    command = methods()[settings["method"]].command
    return f"lwcl {command} --config {shlex.quote(str(run / 'config.yaml'))} {flags} --out {out}"
