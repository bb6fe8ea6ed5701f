"""`lwcl pretrain`, `distill`, `compress`: from a plan to a run folder with an encoder, an export and a report."""

import contextlib
import io
import sys
from collections.abc import Collection
from pathlib import Path

import torch

from lwcl import engine
from lwcl.config import auto
from lwcl.config.plan import Plan
from lwcl.config.recipes import DEMO_OVERRIDES, SMALL_DATA_OVERRIDES
from lwcl.config.train_options import CHANGEABLE_ON_RESUME, MACHINE_SETTINGS
from lwcl.config.warm_start import plan_first_stage
from lwcl.data.dataset import BrokenImage, ImageSet, open_images
from lwcl.engine import NonFiniteError
from lwcl.errors import DataError, TrainingDivergedError, UsageError
from lwcl.reporting.console import Screen
from lwcl.reporting.health_words import COLLAPSE_REMEDIES, known_metrics
from lwcl.reporting.throughput import StepStats
from lwcl.runs.folder import RunFolder, default_out
from lwcl.runs.guard import ResumeMode, read_settings
from lwcl.system.cpu import keep_freed_memory
from lwcl.system.device import current_command
from lwcl.system.out_of_memory import explain_out_of_memory
from lwcl.system.signals import StopSignals
from lwcl.training.build import build_training, prepare_method
from lwcl.training.dry_run import print_dry_run
from lwcl.training.finalize import Timing, finalize_run
from lwcl.training.monitor import TrainingMonitor
from lwcl.training.resolve import resolve_auto, resolve_precision, with_resumed_settings
from lwcl.training.state import SaveSchedule, TrainingState


def train_run(
    plan: Plan, *, dry_run: bool = False, fast_dev_run: int | None = None, as_json: bool = False, quiet: bool = False
) -> int:
    """Trains as the plan says, or only tells what it would do; gives the exit code."""
    screen = Screen(quiet=quiet)
    images = open_images(plan.options.data, "train", download=plan.options.download)
    free = {name for name in MACHINE_SETTINGS if name in plan.settled and plan.settled[name].value in (None, "auto")}
    plan = resolve_precision(resolve_auto(plan, images), screen)
    torch.set_num_threads(plan.options.threads or 1)
    keep_freed_memory()
    with explain_out_of_memory(plan.settled, sys.argv[1:]):
        if dry_run:
            print_dry_run(plan, images, screen, as_json=as_json)
            return 0
        with open_run_folder(plan, free, screen) as folder:
            screen.log = folder.log
            if folder.resumed:
                plan = with_resumed_settings(plan, read_settings(folder.path), free, screen)
                torch.set_num_threads(plan.options.threads or 1)
            if stage := plan_first_stage(plan, folder.first):
                if code := train_first_stage(stage, folder, fast_dev_run, quiet=quiet):
                    return code
                plan = plan.starting_from(str(folder.first))
            return train_in_folder(plan, images, folder, screen, fast_dev_run, as_json=as_json)


def train_first_stage(stage: Plan, folder: RunFolder, steps: int | None, *, quiet: bool) -> int:
    """Trains a run's first stage unless that is done; gives the exit code. Its results are not the command's.

    Raises `UsageError` where --fast-dev-run cut it short, and this command asks for the whole.
    """
    first = RunFolder(folder.first)
    if first.is_finished():
        done, epochs = first.metrics()[-1]["epoch"], stage.recipe.epochs or 0
        if not steps and done < epochs:
            what = f"The first stage in {first.path} ended after {done:.3g} of {epochs} epochs, by --fast-dev-run."
            raise UsageError(what, remedy="Give --overwrite to train both stages anew, or another --out.")
        return 0
    with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr):
        return train_run(stage, fast_dev_run=steps, quiet=quiet)


def train_in_folder(
    plan: Plan, images: ImageSet, folder: RunFolder, screen: Screen, steps: int | None, *, as_json: bool
) -> int:
    """Trains in a folder, up to `steps` if given, and finishes; gives the exit code."""
    bad = BrokenImages(plan.options.max_bad, len(images), folder)
    print_auto_settings(plan, images, screen)
    training = build_training(plan, images, screen, bad.note)
    if training.resume(folder, screen.warn):
        screen.say(f"Going on after step {training.done:,} of {training.steps:,}.")
    else:
        prepare_method(training, screen)
    code, timing = train_loop(training, folder, screen, min(steps or training.steps, training.steps))
    if bad.found:
        count = len(bad.found)
        images_were = "broken image was" if count == 1 else "broken images were"
        screen.warn(f"{count} {images_were} replaced by the next good one: {folder.bad_files_jsonl} lists them.")
    return code or finalize_run(training, folder, screen, timing, as_json=as_json)


class BrokenImages:
    """The broken images met, each once, those before an interruption too; listed in the run's folder."""

    def __init__(self, most: float, count: int, folder: RunFolder) -> None:
        self.most, self.count, self.folder = most, count, folder
        self.found = dict.fromkeys(BrokenImage(**row) for row in folder.known_bad())
        folder.bad_files(broken._asdict() for broken in self.found)

    def note(self, broken: BrokenImage) -> None:
        """Takes note of one. Raises `DataError` when they are more than the share `most` of `count`."""
        if broken in self.found:
            return
        self.found[broken] = None
        self.folder.bad_file(broken._asdict())
        if len(self.found) > self.most * self.count:
            what = f"{len(self.found)} of {self.count} images are broken: more than --max-bad {self.most:g} allows."
            raise DataError(
                what, f"The last: {broken.name!r}: {broken.reason}.", "Mend or remove them, or raise --max-bad."
            )


def print_auto_settings(plan: Plan, images: ImageSet, screen: Screen) -> None:
    """What is trained on what, and what the rules settled, each with its reason."""
    options = plan.options
    screen.say(f"{plan.method.name} with recipe {options.recipe}: {options.arch} on {len(images):,} images.")
    changed = (*SMALL_DATA_OVERRIDES[plan.verb], *DEMO_OVERRIDES)
    for name in (*changed, "precision", *(name for name in auto.AUTO_SETTINGS if name not in changed)):
        if name in plan.settled and plan.settled[name].origin.is_rule:
            screen.say(f"  {name} {plan.settled[name].value}: {plan.settled[name].origin}")


def open_run_folder(plan: Plan, free: Collection[str], screen: Screen) -> RunFolder:
    """The run folder, begun or gone on with; a changed machine or version is told.

    A run that goes on may differ in what is `free`: the machine settled it.
    """
    options, config, ignore = plan.options, plan.config(), CHANGEABLE_ON_RESUME | set(free)
    resume: ResumeMode = options.resume  # type: ignore[assignment]  # its choices are checked
    out = (
        Path(options.out)
        if options.out
        else default_out(
            plan.verb,
            plan.method.name,
            options.arch,
            config,
            resume="never" if options.overwrite else resume,
            ignore=ignore,
        )
    )
    folder = RunFolder.open(out, config, resume=resume, overwrite=options.overwrite, ignore=ignore)
    for name, (then, now) in folder.changed.items():
        screen.warn(f"{name} was {then} and is {now}: the last bits of the result may differ from the unbroken run's.")
    return folder


def train_loop(training: TrainingState, folder: RunFolder, screen: Screen, steps: int) -> tuple[int, Timing]:
    """Trains up to step `steps`, watching, recording, saving; gives an interruption's exit code, or 0, and timing."""
    plan, loader = training.plan, training.loader
    per_epoch = loader.steps_per_epoch
    saver, watch = SaveSchedule(plan.options.save_every, per_epoch), TrainingMonitor(training, folder, screen)
    fitted = engine.fit(
        plan.method,
        training.net,
        loader.batches(training.done, steps),
        plan.recipe,
        training.optimizer,
        training.compute,
        steps_per_epoch=per_epoch,
        start=training.done,
        seed=plan.options.seed,
    )
    shape = {"start": training.done, "steps": steps, "steps_per_epoch": per_epoch, "batch_size": loader.batch_size}
    metrics = ("std", "effective_rank", "top1", *(("knn_top1",) if plan.options.monitor else ()))
    title = f"{plan.method.name} {plan.options.arch}"
    with StopSignals() as interrupts, screen.training(title, **shape, metrics=metrics) as display:
        try:
            for step in fitted:
                training.done = step.number
                health = watch.look(step, last=step.number == steps, display=display)
                stride = StepStats(step.number, step.epoch, step.lr, step.metrics["loss"], step.waited, step.seconds)
                display.step(stride, known_metrics({**step.metrics, **(health._asdict() if health else {})}))
                if interrupts.received or saver.due(step.number) or step.number == steps:
                    training.save(folder)
                if interrupts.received:
                    screen.say(f"Stopped after step {step.number:,}; all is saved. Go on with: {current_command()}")
                    return interrupts.exit_code, display.timing()
        except NonFiniteError as error:
            training.dump(folder, error)
            raise
    if plan.options.strict and watch.alarm.has_collapsed:
        raise TrainingDivergedError(
            "The embedding collapsed.",
            f"Its curves are in {folder.metrics_jsonl}.",
            f"{COLLAPSE_REMEDIES.capitalize()}.",
        )
    return 0, display.timing()
