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
from lwcl.config.recipes import DEMONSTRATION, FEW
from lwcl.config.train_options import FREE, MACHINE
from lwcl.config.warm_start import first_stage
from lwcl.data.dataset import Broken, ImageSet, open_images
from lwcl.engine import NotFiniteError
from lwcl.errors import DataError, SickError, UsageError
from lwcl.reporting.console import Screen
from lwcl.reporting.throughput import Stride
from lwcl.runs.folder import RunFolder, default_out
from lwcl.runs.guard import Resume, settings_of
from lwcl.system.cpu import tune_allocator
from lwcl.system.device import command_line
from lwcl.system.out_of_memory import enough_memory
from lwcl.system.signals import Interrupts
from lwcl.training.build import assembled, prepare
from lwcl.training.dry_run import describe
from lwcl.training.finalize import Timing, finish
from lwcl.training.monitor import ADVICE, Watch
from lwcl.training.resolve import as_it_began, settled, with_precision
from lwcl.training.state import Saver, Training


def train_run(
    plan: Plan, *, dry_run: bool = False, fast_dev_run: int | None = None, as_json: bool = False, quiet: bool = False
) -> int:
    """Trains as the plan says, or only tells what it would do; gives the exit code."""
    screen = Screen(quiet=quiet)
    images = open_images(plan.options.data, "train", download=plan.options.download)
    free = {name for name in MACHINE if name in plan.settled and plan.settled[name].value in (None, "auto")}
    plan = with_precision(settled(plan, images), screen)
    torch.set_num_threads(plan.options.threads or 1)
    tune_allocator()
    with enough_memory(plan.settled, sys.argv[1:]):
        if dry_run:
            describe(plan, images, screen, as_json=as_json)
            return 0
        with opened(plan, free, screen) as folder:
            screen.log = folder.log
            if folder.resumed:
                plan = as_it_began(plan, settings_of(folder.path), free, screen)
                torch.set_num_threads(plan.options.threads or 1)
            if stage := first_stage(plan, folder.first):
                if code := begun_by(stage, folder, fast_dev_run, quiet=quiet):
                    return code
                plan = plan.starting_from(str(folder.first))
            return trained(plan, images, folder, screen, fast_dev_run, as_json=as_json)


def begun_by(stage: Plan, folder: RunFolder, steps: int | None, *, quiet: bool) -> int:
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


def trained(
    plan: Plan, images: ImageSet, folder: RunFolder, screen: Screen, steps: int | None, *, as_json: bool
) -> int:
    """Trains in a folder, up to `steps` if given, and finishes; gives the exit code."""
    bad = Bad(plan.options.max_bad, len(images), folder)
    say_rules(plan, images, screen)
    training = assembled(plan, images, screen, bad.note)
    if training.resume(folder, screen.warn):
        screen.say(f"Going on after step {training.done:,} of {training.steps:,}.")
    else:
        prepare(training, screen)
    code, timing = train(training, folder, screen, min(steps or training.steps, training.steps))
    if bad.found:
        count = len(bad.found)
        images_were = "broken image was" if count == 1 else "broken images were"
        screen.warn(f"{count} {images_were} replaced by the next good one: {folder.bad_files_jsonl} lists them.")
    return code or finish(training, folder, screen, timing, as_json=as_json)


class Bad:
    """The broken images met, each once, those before an interruption too; listed in the run's folder."""

    def __init__(self, most: float, count: int, folder: RunFolder) -> None:
        self.most, self.count, self.folder = most, count, folder
        self.found = dict.fromkeys(Broken(**row) for row in folder.known_bad())
        folder.bad_files(broken._asdict() for broken in self.found)

    def note(self, broken: Broken) -> None:
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


def say_rules(plan: Plan, images: ImageSet, screen: Screen) -> None:
    """What is trained on what, and what the rules settled, each with its reason."""
    options = plan.options
    screen.say(f"{plan.method.name} with recipe {options.recipe}: {options.arch} on {len(images):,} images.")
    changed = (*FEW[plan.verb], *DEMONSTRATION)
    for name in (*changed, "precision", *(name for name in auto.RULED if name not in changed)):
        if name in plan.settled and plan.settled[name].origin.is_rule:
            screen.say(f"  {name} {plan.settled[name].value}: {plan.settled[name].origin}")


def opened(plan: Plan, free: Collection[str], screen: Screen) -> RunFolder:
    """The run folder, begun or gone on with; a changed machine or version is told.

    A run that goes on may differ in what is `free`: the machine settled it.
    """
    options, config, ignore = plan.options, plan.config(), FREE | set(free)
    resume: Resume = options.resume  # type: ignore[assignment]  # its choices are checked
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


def train(training: Training, folder: RunFolder, screen: Screen, steps: int) -> tuple[int, Timing]:
    """Trains up to step `steps`, watching, recording, saving; gives an interruption's exit code, or 0, and timing."""
    plan, loader = training.plan, training.loader
    per_epoch = loader.steps_per_epoch
    saver, watch = Saver(plan.options.save_every, per_epoch), Watch(training, folder, screen)
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
    with Interrupts() as interrupts, screen.training(f"{plan.method.name} {plan.options.arch}", **shape) as told:
        try:
            for step in fitted:
                training.done = step.number
                health = watch.look(step, last=step.number == steps, told=told)
                stride = Stride(step.number, step.epoch, step.lr, step.parts["loss"], step.waited, step.seconds)
                told.step(stride, health, step.parts.get("found"))
                if interrupts.received or saver.due(step.number) or step.number == steps:
                    training.save(folder)
                if interrupts.received:
                    screen.say(f"Stopped after step {step.number:,}; all is saved. Go on with: {command_line()}")
                    return interrupts.exit_code, told.timing()
        except NotFiniteError as error:
            training.dump(folder, error)
            raise
    if plan.options.strict and watch.alarmed:
        raise SickError("The embedding collapsed.", ADVICE, f"Its curves are in {folder.metrics_jsonl}.")
    return 0, told.timing()
