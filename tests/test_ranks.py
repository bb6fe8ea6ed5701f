"""A process's place among those of a run, from the variables of torchrun and SLURM."""

import pytest

from lwcl.errors import UsageError
from lwcl.system.ranks import Ranks, current_ranks, first_host, tasks_per_node

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_PROCID": "4",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[003-004,9]",
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
}


def test_a_process_by_itself_is_the_only_one():
    assert current_ranks({}) == Ranks()
    assert Ranks().is_first


def test_torchrun_says_which_process_this_is():
    assert current_ranks(TORCHRUN) == Ranks(5, 8, 1, 4, "node1", 29400, "torchrun")


def test_a_step_of_slurm_says_it_too_and_jobs_do_not_share_a_port():
    here, other = current_ranks(SLURM), current_ranks(SLURM | {"SLURM_JOB_ID": "42"})
    assert here == Ranks(4, 5, 0, 1, "gpu003", here.port, "srun")
    assert here.port != other.port


def test_a_batch_script_and_a_step_of_one_task_are_one_process():
    assert current_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}) == Ranks()
    assert current_ranks(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) == Ranks()


def test_torchrun_within_a_job_wins_over_slurm():
    assert current_ranks(SLURM | TORCHRUN).launcher == "torchrun"


@pytest.mark.parametrize("change", [{"RANK": "8"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": "4"}])
def test_variables_that_contradict_each_other_are_refused(change):
    with pytest.raises(UsageError, match="launcher"):
        current_ranks(TORCHRUN | change)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[003-007,9],cpu1", "gpu003"), ("localhost", "localhost"), ("a1,b2", "a1"), ("n[2,5]-ib", "n2-ib")],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host):
    assert first_host(nodes) == host


def test_tasks_of_each_node():
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
