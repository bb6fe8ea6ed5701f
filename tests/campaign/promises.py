"""Promises that the suite's own tests try, each as often as it has cases; and one that needs its own process."""

import os
import re
import subprocess
import sys
from pathlib import Path

from trials import trial

TESTS = Path(__file__).parents[1]
#: Number, promise, and the tests, as pytest names them.
TESTED = (
    ("T3", "0, 1 or 2 workers, any number of images held: same bits", "test_run.py -k bit"),
    ("T5", "killed at every crash point, every time that it is passed, and resumed: same bits",
     "test_crash.py -k 'every_time or again_and_again'"),
    ("T6", "a checkpoint is written, synced, renamed, its folder synced, in this order",
     "test_checkpoint.py test_storage.py"),
    ("T10", "damage of other kinds in a checkpoint: found and told", "test_checkpoint_damage.py"),
    ("T12", "broken images: listed with reasons, replaced the same way, left as they are",
     "test_run_failures.py test_store.py -k 'broken or difficult or holed'"),
    ("T14", "decompression bombs: refused before they are decoded", "test_decode.py -k 'bomb or limit'"),
    ("T15", "a loss or gradient that is not finite stops before the weights change, and is kept for study",
     "test_crash.py test_engine.py -k finite"),
    ("T18", "a collapse is reported, once, and ends a strict run", "test_run_failures.py test_preflight.py -k collaps"),
    ("T19", "out of memory: the message names a command that works",
     "test_run_failures.py test_cli_parsing.py -k memory"),
    ("T23", "a worker that dies or hangs: said, with its file", "test_store.py -k 'lost_worker or error_in_a_worker'"),
    ("T25", "two or three processes compute what one does, every method, 20 steps, within 1e-6",
     "test_distributed.py -k several_processes"),
    ("T27", "no pickle, no eval, safe YAML, torch.load in one place",
     "test_house.py -k 'unpickles or run_nothing or yaml'"),
    ("T28-encoders", "hostile and damaged files as encoders: refused, nothing runs", "test_foreign_refusals.py"),
    ("T29", "archives that lead out, lie or are cut: refused or said, nothing unpacked",
     "test_images.py -k 'archive or member or tar or zip' test_image_sources.py"),
    ("T32", "other versions, machine, settings or images at a resume: said or refused",
     "test_runfolder.py test_resume_spelling.py test_run.py -k 'resume or goes_on or spelled or refus or same_images'"),
    ("T33", "five steps of each method equal the recorded ones", "test_golden.py"),
    ("T35", "names with escapes, markup, scripts or broken UTF-8 steer neither terminal nor page",
     "test_run_failures.py test_report.py test_progress.py test_artefacts.py -k 'hostile or stranger'"),
)  # fmt: skip


def run_tests(line: str) -> int:
    """How many tests passed; asserts that all did."""
    words = [str(TESTS / word) if word.startswith("test_") else word for word in re.findall(r"'[^']+'|\S+", line)]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "1200", *words]
    done = subprocess.run([word.strip("'") for word in command], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed, done.stdout[-400:]
    return int(passed[1])


for number, promise, line in TESTED:
    trial(number, promise)(lambda case, folder, prepared, line=line: run_tests(line))

IMPORTS = """
import sys
import torch  # with CUDA's packages, it runs ldconfig to find a library
seen = []
watched = "socket.connect socket.getaddrinfo subprocess.Popen os.system os.exec os.fork os.posix_spawn".split()
sys.addaudithook(lambda event, arguments: seen.append(event) if event in watched else None)
import importlib, pkgutil, lwcl
for module in pkgutil.walk_packages(lwcl.__path__, "lwcl."):
    if module.name != "lwcl.__main__":
        importlib.import_module(module.name)
sys.exit(f"{seen}" if seen else 0)
"""


@trial("T26", "importing every module of lwcl, after torch, opens no connection and starts no process")
def imported(case: int, folder: Path, prepared: None) -> None:
    """Import everything."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-400:]
