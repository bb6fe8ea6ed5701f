"""A job of SLURM: the CPUs that it grants, and how a run that was warned of the job's end is queued again."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping

from lwcl.errors import StorageError, UsageError

REQUEUE_SECONDS = 60.0  # that `scontrol` may take


def job(environment: Mapping[str, str] = os.environ) -> str:
    """The number of the job that this process belongs to, or ""."""
    return environment.get("SLURM_JOB_ID", "")


def granted_cpus(environment: Mapping[str, str] = os.environ) -> int | None:
    """CPUs that SLURM grants to a task, else to the job on this node; None outside of a job."""
    numbers = (environment.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    found = (int(number) for number in numbers if number.isdecimal() and int(number))
    return next(found, None) if job(environment) else None


def check_requeue(*, wanted: bool = True) -> None:
    """Raises `UsageError` where a run is to be queued again and cannot be."""
    if wanted and (not job() or not shutil.which("scontrol")):
        what = "--requeue: this is no job of SLURM." if not job() else "--requeue: no command scontrol is here."
        raise UsageError(what, remedy="Start it with sbatch, or leave --requeue out.")


def requeue_if_warned(number: int, *, wanted: bool) -> None:
    """Lets SLURM queue this job again if it is `wanted` and the signal `number` that stopped it was SLURM's warning."""
    if wanted and number == signal.SIGUSR1:
        requeue()


def requeue() -> None:
    """Lets SLURM queue this job again, which ends it. Raises `StorageError` if SLURM refuses."""
    command = ["scontrol", "requeue", job()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=REQUEUE_SECONDS, check=False)  # noqa: S603
        refused = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused:
        what = f"SLURM did not queue job {job()} again: {refused}."
        raise StorageError(what, remedy="Submit the same script again: the run goes on where it was.")
