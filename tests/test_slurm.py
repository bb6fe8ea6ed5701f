"""Jobs of SLURM: what it grants, its warning, its queue; the last tests run a real controller and nodes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Group, free_port
from runs import left_by, made_images, pretrain

from lwcl.errors import StorageError, UsageError
from lwcl.system import slurm
from lwcl.system.limits import usable_cpus
from lwcl.system.signals import exit_code

DAEMONS = ("munged", "slurmctld", "slurmd")
needs_slurm = pytest.mark.skipif(
    os.getuid() != 0 or not all(map(shutil.which, DAEMONS)), reason="needs root, slurm-wlm and munge"
)
CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=3,requeue_delay=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
{nodes}
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


def test_a_task_uses_the_cpus_that_it_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.granted_cpus({"SLURM_CPUS_PER_TASK": "3"}) is None, "left over from a job that ended"
    assert slurm.granted_cpus({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "8"}) == 3
    assert slurm.granted_cpus({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "8"}) == 8
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cpus() == 1


def test_the_warning_of_a_job_exits_as_its_end_would(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code(signal.SIGUSR1) == 128 + signal.SIGUSR1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert (exit_code(signal.SIGUSR1), exit_code(signal.SIGTERM), exit_code(signal.SIGINT)) == (143, 143, 130)


def test_only_a_job_can_be_queued_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no job of SLURM"):
        slurm.check_requeue()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no command scontrol"):
        slurm.check_requeue()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    slurm.check_requeue()
    slurm.requeue_if_warned(signal.SIGTERM, wanted=True)
    slurm.requeue_if_warned(signal.SIGUSR1, wanted=False)
    assert not (tmp_path / "asked").exists()
    slurm.requeue_if_warned(signal.SIGUSR1, wanted=True)
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    scontrol.write_text("#!/bin/sh\necho job is gone >&2\nexit 1\n")
    with pytest.raises(StorageError, match="job is gone"):
        slurm.requeue()


@contextlib.contextmanager
def cluster(folder: Path, *nodes: str) -> Iterator[None]:
    """A controller and nodes of SLURM on this machine; `$SLURM_CONF` names their configuration."""
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    own = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN"
    lines = "\n".join(f"NodeName={node} Port={free_port()} {own}" for node in nodes)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(port=free_port(), host=host, folder=folder, nodes=lines))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    files = (
        f"--{name}={folder}/munge.{end}"
        for name, end in (
            ("socket", "socket"),
            ("key-file", "key"),
            ("log-file", "log"),
            ("pid-file", "pid"),
            ("seed-file", "seed"),
        )
    )
    commands = [["munged", "--force", "--foreground", *files], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", node] for node in nodes]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            time.sleep(3)
        stack.callback(time.sleep, 3)
        stack.callback(asked, "scancel", "--user=root", folder=folder)  # else jobs outlive the cluster
        yield


def asked(*words: str, folder: Path) -> str:
    """What a command of SLURM prints."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_until(what: str, holds: object, seconds: float = 1500.0) -> None:
    """Returns once `holds()` is true."""
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_slurm
def test_a_job_that_is_warned_or_preempted_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    words = f"{sys.executable} -m lwcl pretrain --data {made_images(tmp_path / 'images', 64)} --arch test_efficientnet"
    words += " --image-size 32 --batch-size 16 --epochs 150 --cache ram --precision fp32 --method simclr --requeue"
    slurm_folder = tmp_path / "slurm"

    def submit(name: str) -> str:
        script = tmp_path / f"{name}.sh"
        script.write_text(
            f"#!/bin/bash\n#SBATCH --requeue --open-mode=append --ntasks=1 --output={tmp_path}/{name}.log\n"
            f"srun --export=ALL {words} --out {tmp_path}/{name}\n"
        )
        return asked("sbatch", "--parsable", str(script), folder=slurm_folder).strip()

    def state(job: str) -> str:
        return asked("squeue", "--noheader", "--format=%T", "--job", job, folder=slurm_folder).strip()

    def log(name: str) -> str:
        path = tmp_path / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def steps(name: str) -> int:
        path = tmp_path / name / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def ended(name: str) -> bool:
        return (tmp_path / name / "encoder.safetensors").exists()

    with cluster(slurm_folder, "one"):
        whole = submit("whole")
        wait_until(f"whole run: {log('whole')}", lambda: ended("whole"))
        wait_until("the job leaves the queue", lambda: state(whole) in ("", "COMPLETED"))
        broken = submit("broken")
        wait_until("first steps", lambda: steps("broken") >= 3)
        asked("scancel", "--signal=USR1", broken, folder=slurm_folder)  # as sbatch --signal=USR1@120 does
        wait_until(f"saved: {log('broken')}", lambda: "and saved" in log("broken"))
        wait_until("steps after it", lambda: "Resuming after step" in log("broken"))
        before = steps("broken")
        wait_until("more steps", lambda: steps("broken") > before or ended("broken"))
        other = ["sbatch", "--parsable", "--partition=high", "--output=/dev/null", "--exclusive", "--wrap", "sleep 5"]
        asked(*other, folder=slurm_folder)
        wait_until(f"preempted, and on again: {log('broken')}", lambda: log("broken").count("Resuming after step") == 2)
        wait_until(f"the end: {log('broken')}", lambda: ended("broken"))
    weights = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_slurm
def test_a_task_on_each_of_two_nodes_trains_as_two_processes_on_one_do(tmp_path: Path) -> None:
    words = pretrain(made_images(tmp_path / "images", 48), tmp_path / "nodes")
    script, slurm_folder = tmp_path / "job.sh", tmp_path / "slurm"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=1 --output={tmp_path}/job.log\n"
        "export MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1  # both nodes are this machine\n"
        f"srun --export=ALL {sys.executable} -m lwcl {' '.join(words)}\n"
    )
    with cluster(slurm_folder, "one", "two"):
        job = asked("sbatch", "--parsable", str(script), folder=slurm_folder).strip()
        queue = ("squeue", "--noheader", "--format=%T", "--job", job)
        wait_until("the job ends", lambda: asked(*queue, folder=slurm_folder).strip() in ("", "COMPLETED"))
    one = Group(pretrain(tmp_path / "images", tmp_path / "one"), tmp_path)
    assert one.ended(1500) == [0, 0], one.said()
    log = (tmp_path / "job.log").read_text()
    assert left_by(tmp_path / "nodes") == left_by(tmp_path / "one"), log
