"""`--devices N`: the command in N processes on this machine, by torch's elastic launcher."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from lwcl.errors import ProcessLostError
from lwcl.system.limits import usable_cpus
from lwcl.system.process_group import LAUNCHED
from lwcl.system.signals import STOP_SIGNALS, exit_code


def launch(words: Sequence[str], processes: int) -> int:
    """Runs `lwcl` with these arguments in several processes; returns the exit code of the first that failed.

    Raises `ProcessLostError` where one was killed: no process can say so itself.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // processes)))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name that is not resolved would be looked up for long
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=",".join(one.name for one in STOP_SIGNALS),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "lwcl", *words)
    except SignalException as stopped:
        return exit_code(stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        killer = signal.Signals(-failure.exitcode).name
        raise ProcessLostError(
            f"Process {rank} of {processes} (pid {failure.pid}) was killed by {killer}.",
            "Often memory has run out (`dmesg` tells).",
            "Start the command again: it goes on from the last checkpoint.",
        ) from None
    return 0
