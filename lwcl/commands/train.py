"""`lwcl pretrain`, `distill`, `compress`: from a plan to a run folder with an encoder, an export and a report."""

import contextlib
import io
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from lwcl import engine
from lwcl.checkpoints.load import weights_hash_of
from lwcl.config.plan import CHOSEN, IMAGES, WEIGHTS, Plan, ResolvedConfig, plan_first_stage
from lwcl.config.train_options import CHANGEABLE_ON_RESUME, CHANGEABLE_WITH_WARNING, MACHINE_SETTINGS
from lwcl.data.dataset import BrokenImage, ImageSet
from lwcl.data.pairs import open_training_images
from lwcl.diagnosis.run_pictures import run_pictures
from lwcl.engine import NonFiniteError
from lwcl.errors import DataError, TrainingDivergedError, UsageError
from lwcl.reporting.console import Screen
from lwcl.reporting.health_ranges import COLLAPSE_REMEDIES, known_metrics
from lwcl.reporting.throughput import StepStats
from lwcl.reporting.trackers import Trackers, open_trackers, require_trackers
from lwcl.runs.crash import describe_crash
from lwcl.runs.finished import FinishedRun
from lwcl.runs.folder import FollowedFolder, RunFolder, default_out
from lwcl.runs.guard import ResumeMode
from lwcl.settings import AUTO, auto_value, flag_name
from lwcl.system import distributed, slurm
from lwcl.system.cpu import keep_freed_memory
from lwcl.system.device import current_command, resolve_device
from lwcl.system.out_of_memory import explain_out_of_memory
from lwcl.system.process_group import process_group
from lwcl.system.signals import StopSignals, exit_code
from lwcl.training.build import build_model, build_training, prepare_method
from lwcl.training.dry_run import print_dry_run
from lwcl.training.final_scores import compute_shares, warn_without_final_score
from lwcl.training.finalize import Timing, finalize_run
from lwcl.training.minutes import settle_epochs
from lwcl.training.monitor import TrainingMonitor
from lwcl.training.post_training import needs_training, quantise_student
from lwcl.training.preflight import copies_warning, early_warnings, print_auto_settings
from lwcl.training.resolve import resolve, resume_settings
from lwcl.training.state import SaveSchedule, TrainingState

DEVICES_CHANGED = (
    "The image order is unchanged, but batch norm sees different parts of each batch (--bn-splits), and sums round "
    "differently."
)


def train_run(
    plan: Plan, *, dry_run: bool = False, fast_dev_run: int | None = None, as_json: bool = False, quiet: bool = False
) -> int:
    """Trains as the plan says, or only prints what it would do; returns the exit code."""
    slurm.check_requeue(wanted=plan.options.requeue)
    with process_group(resolve_device(plan.options.device), plan.options.wait_limit):
        return train_here(plan, dry_run=dry_run, fast_dev_run=fast_dev_run, as_json=as_json, quiet=quiet)


def train_here(plan: Plan, *, dry_run: bool, fast_dev_run: int | None, as_json: bool, quiet: bool) -> int:
    """Trains in this process, with the others of its group if there are any; returns the exit code."""
    screen, begun = Screen(quiet=quiet), time.monotonic() - time.process_time()  # importing took about that long
    # 1. What the plan leaves open depends on the images and the machine.
    images = open_training_images(plan.options)
    check_same_images(images)
    for note in images.notes:
        screen.warn(note)
    auto = {name for name in MACHINE_SETTINGS if plan.values[name].value in (None, AUTO)}
    warn_without_final_score(plan.options, images, screen)
    require_trackers(plan.options.log)
    config = resolve(plan, images)
    torch.set_num_threads(config.options.threads)
    keep_freed_memory()
    with explain_out_of_memory(config.values, sys.argv[1:]):
        if dry_run:
            print_dry_run(config, images, screen, as_json=as_json)
            return 0
        # 2. The folder before building the model: a resumed run keeps its recorded threads and precision.
        with join_run_folder(config, images, auto, screen) as folder, folder.marked_as_running():
            if folder.resumed:
                config = resume_settings(config, folder.settings(), auto, screen)
                torch.set_num_threads(config.options.threads)
            # 3. A first stage is a run of its own; this one starts from its encoder.
            if stage := plan_first_stage(config, folder.first):
                if code := train_first_stage(stage, folder, fast_dev_run, quiet=quiet):
                    return code
                config = config.with_values(init=auto_value(str(folder.first), "encoder of the first stage"))
            return train_in_folder(config, images, folder, screen, fast_dev_run, begun=begun, as_json=as_json)


def train_first_stage(stage: Plan, folder: RunFolder, steps: int | None, *, quiet: bool) -> int:
    """Trains a run's first stage unless that is done; returns the exit code. Its results go to stderr.

    Raises `UsageError` if an earlier --fast-dev-run left it incomplete and this command lacks the flag.
    """
    first = RunFolder(folder.first)
    if first.is_finished():
        done, epochs = first.metrics()[-1]["epoch"], stage.optimization.epochs
        if not steps and done < epochs:
            what = f"The first stage in {first.path} ended after {done:.3g} of {epochs:g} epochs, by --fast-dev-run."
            raise UsageError(what, remedy="Give --overwrite to train both stages again, or another --out.")
        return 0
    with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stderr):
        return train_run(stage, fast_dev_run=steps, quiet=quiet)


def train_in_folder(
    config: ResolvedConfig, images: ImageSet, folder: RunFolder, screen: Screen, steps: int | None, *,
    begun: float, as_json: bool,
) -> int:  # fmt: skip
    """Trains up to step `steps` (all if None), then evaluates, exports and reports; returns the exit code."""
    # 1. The precision is part of the run's settings: a resumed run must not choose again.
    model = build_model(config, screen, images)
    folder.record_setting("precision", model.config.options.precision)
    print_auto_settings(model.config, images, screen)
    broken = BrokenImages(config.options.max_bad, len(images), folder)
    training = build_training(model, images, screen, broken.add)
    training = settle_epochs(training, folder, screen, begun, steps)
    for warning in early_warnings(training.config, training.net, training.steps):
        screen.warn(warning)
    if training.loader.store and (warning := copies_warning(training.loader.store)):
        screen.warn(warning)
    # 2. `Method.initialise` (e.g. k-means) runs once: a resumed run has its result in the checkpoint.
    if training.resume(folder, screen.warn):
        screen.say(f"Resuming after step {training.done:,} of {training.steps:,}.")
    else:
        prepare_method(training, screen)
    names = () if distributed.rank() else config.options.log
    with open_trackers(names, folder.path, config.config(), training.done, screen.warn) as trackers:
        folder.on_metrics = trackers.scalars
        code, timing = quantise_or_train(training, folder, screen, min(steps or training.steps, training.steps))
        broken.collect()
        if broken.images:
            what = f"Broken images: {len(broken.images)}, each replaced by the next good one."
            screen.warn(f"{what} They are listed in {folder.bad_files_jsonl}.")
        if distributed.rank():
            return code or compute_shares(training, screen)
        code = code or finalize_run(training, folder, screen, timing, as_json=as_json, pictures=run_pictures(training))
        track_results(trackers, folder, training.done)
    return code


def track_results(trackers: Trackers, folder: RunFolder, step: int) -> None:
    """Records the pictures and the final accuracy of a finished run."""
    if not trackers.active or not folder.is_finished():
        return
    for file in sorted(folder.plots.glob("*.png")):
        trackers.picture(file.stem, file.read_bytes(), step)
    if rows := FinishedRun(str(folder.path)).rows:
        trackers.scalars({"step": step, "final_knn_top1": rows[0].top1})


class BrokenImages:
    """The broken images of a run, each once, also those from before it was interrupted; listed in its folder."""

    def __init__(self, max_share: float, count: int, folder: RunFolder) -> None:
        self.max_share, self.count, self.folder = max_share, count, folder
        self.images = dict.fromkeys(BrokenImage(**row) for row in folder.bad_file_rows())
        folder.write_bad_files(image._asdict() for image in self.images)

    def collect(self) -> None:
        """Records those that other processes found."""
        for images in distributed.all_gather_json([image._asdict() for image in self.images]):
            for image in images:
                self.add(BrokenImage(**image))

    def add(self, image: BrokenImage) -> None:
        """Records a broken image. Raises `DataError` when they are more than the share `max_share` of `count`."""
        if image in self.images:
            return
        self.images[image] = None
        self.folder.append_bad_file(image._asdict())
        if len(self.images) > self.max_share * self.count:
            raise DataError(
                f"{len(self.images)} of {self.count} images are broken, more than --max-bad {self.max_share:g} allows.",
                f"The last one: {image.name!r}: {image.reason}.",
                "Fix or remove them, or raise --max-bad.",
            )


def quantise_or_train(training: TrainingState, folder: RunFolder, screen: Screen, steps: int) -> tuple[int, Timing]:
    """Finishes a student whose bits come after training, or trains up to step `steps`; see `train_loop`."""
    if needs_training(training):
        return train_loop(training, folder, screen, steps)
    quantise_student(training)
    return 0, {}


def check_same_images(images: ImageSet) -> None:
    """Raises `DataError` unless all processes see images of the same names and sizes."""
    if len(set(seen := distributed.all_gather_json(images.whole_identity))) > 1:
        other = next(number for number, identity in enumerate(seen) if identity != seen[0])
        raise DataError(
            f"Process {other} sees different images from process 0.",
            "Their names or sizes differ.",
            "Give --data the same files on every machine.",
        )


def join_run_folder(config: ResolvedConfig, images: ImageSet, auto: Collection[str], screen: Screen) -> RunFolder:
    """The run folder, which process 0 opens (`open_run_folder`) and the others follow."""
    if distributed.rank():
        return FollowedFolder(**distributed.broadcast_json(None))
    folder = open_run_folder(config, images, auto, screen)
    distributed.broadcast_json({"path": str(folder.path), "resumed": folder.resumed, "recorded": folder.settings()})
    return folder


def open_run_folder(config: ResolvedConfig, images: ImageSet, auto: Collection[str], screen: Screen) -> RunFolder:
    """The run folder, new or resumed; warns of a changed machine or version.

    A resumed run may differ in what the machine decides (`auto`).
    """
    options, known = config.options, {"count": len(images), "names and sizes": images.whole_identity}
    encoders = {name: weights_hash_of(spec) for name in ("init", "teacher") if (spec := getattr(options, name))}
    settings = config.config() | dict.fromkeys(config.unsettled)
    settings |= {IMAGES: known, WEIGHTS: {name: one for name, one in encoders.items() if one}}
    ignore = CHANGEABLE_ON_RESUME | (CHANGEABLE_WITH_WARNING - {"cache"}) | {CHOSEN, *auto, *config.unsettled}
    ignore |= set() if config.unsettled else {"minutes"}  # the epochs tell whether it is the same run
    resume: ResumeMode = options.resume  # type: ignore[assignment]  # its choices are checked
    stem, newest = f"{config.command}-{config.method.name}-{options.arch}", "never" if options.overwrite else resume
    stem = stem.replace("/", "-")  # of video/r3d_18
    out = Path(options.out) if options.out else default_out(stem, settings, resume=newest, ignore=ignore)
    folder = RunFolder.open(out, settings, resume=resume, overwrite=options.overwrite, ignore=ignore)
    screen.log = folder.log
    if crash := describe_crash(folder.path, folder.log_txt):
        screen.warn(crash)
    for name, (then, now) in folder.changed.items():
        screen.warn(f"{name} changed from {then} to {now} since the run started: results may differ by rounding.")
    if folder.resumed:
        record_changes(folder, settings, {*encoders, *CHANGEABLE_WITH_WARNING} - {"cache", *auto}, screen)
    return folder


def record_changes(folder: RunFolder, settings: Mapping[str, Any], names: Collection[str], screen: Screen) -> None:
    """Warns about settings that differ from the interrupted run, and records the new values."""
    before = folder.settings()
    for name in sorted(names):
        if before.get(name) != settings[name]:
            screen.warn(
                f"Resuming with a different {flag_name(name)}: {before.get(name)} before, {settings[name]} now."
            )
            if name == "devices":
                screen.warn(DEVICES_CHANGED)
            folder.record_setting(name, settings[name])


def train_loop(training: TrainingState, folder: RunFolder, screen: Screen, steps: int) -> tuple[int, Timing]:
    """Trains up to step `steps`, monitoring, recording, saving; returns the exit code (0 unless stopped) and timing."""
    config, loader = training.config, training.loader
    options, per_epoch = config.options, loader.steps_per_epoch
    schedule, monitor = SaveSchedule(options.save_every, per_epoch), TrainingMonitor(training, folder, screen)
    fitted = engine.fit(
        config.method,
        training.net,
        loader.batches(training.done, steps),
        config.optimization,
        training.optimizer,
        training.compute,
        steps_per_epoch=per_epoch,
        start=training.done,
        seed=options.seed,
        messages=lambda: (float(signals.received or 0), schedule.waited()),
    )
    shape = {"start": training.done, "steps": steps, "steps_per_epoch": per_epoch, "batch_size": loader.batch_size}
    metrics = ("std", "effective_rank", "top1", *(("knn_top1",) if options.monitor else ()))
    title = f"{config.method.name} {options.arch}"
    stop: Any = None
    with StopSignals() as signals, screen.training(title, **shape, metrics=metrics) as display:
        try:
            for step in fitted:
                training.done = step.number
                health = monitor.measure(step, last=step.number == steps, display=display)
                stats = StepStats(step.number, step.epoch, step.lr, step.metrics["loss"], step.waited, step.seconds)
                display.step(stats, known_metrics({**step.metrics, **(health._asdict() if health else {})}))
                stop, waited = step.messages if distributed.is_distributed() else (signals.received, schedule.waited())
                if stop or schedule.due(step.number, waited) or step.number == steps:
                    training.save(folder)
                if stop:
                    break
        except NonFiniteError as error:
            training.dump(folder, error)
            raise
    if stop:
        screen.say(f"Stopped after step {training.done:,} and saved. Resume with: {current_command()}")
        slurm.requeue_if_warned(int(stop), wanted=options.requeue and not distributed.rank())
        return exit_code(int(stop)), display.timing()
    if options.strict and monitor.has_collapsed:
        raise TrainingDivergedError(
            "The embedding collapsed.",
            f"Its curves are in {folder.metrics_jsonl}.",
            f"{COLLAPSE_REMEDIES.capitalize()}.",
        )
    return 0, display.timing()
