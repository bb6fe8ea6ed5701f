"""Disks that are full whenever something is written: exit code 5, nothing lost, and it goes on once there is room.

A small file system (tmpfs) is mounted for each case, which needs root.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from crash import ended
from kills import Unbroken, go, way, without_pictures
from runs import begun, child, made_images
from trials import trial

PAGE = os.sysconf("SC_PAGE_SIZE")
RUN_CASES = 60


@contextlib.contextmanager
def disk(place: Path, size: int) -> Iterator[Callable[[int], object]]:
    """A file system of `size` bytes; the function changes its size."""
    place.mkdir()
    mount(f"-t tmpfs -o size={size} tmpfs {place}")
    try:
        yield lambda size: mount(f"-o remount,size={size} {place}")
    finally:
        mount(f"-l {place}", "umount")


def mount(options: str, command: str = "mount") -> None:
    """Run mount or umount."""
    subprocess.run([command, *options.split()], check=True)


def used(place: Path) -> int:
    """Bytes in use on a file system."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def measured(folder: Path) -> tuple[Unbroken, list[int]]:
    """An unbroken run, and the sizes of its disk at each of its crash points."""
    (run,) = way(folder, "disk")
    sizes = folder / "sizes"

    def note_sizes() -> None:
        without_pictures()
        import sys

        def noted(name: str) -> None:
            with open(sizes, "a") as file:
                file.write(f"{used(folder / 'disk-all')}\n")

        for module in [
            one for name, one in sys.modules.items() if name.startswith("lwcl") and hasattr(one, "crash_point")
        ]:
            module.crash_point = noted  # type: ignore[attr-defined]

    with disk(folder / "disk-all", 64 << 20):
        words = run.again(folder / "disk-all" / "run")
        assert ended(begun(words, folder / "disk-all" / "cache", before=note_sizes)) == 0
        noted = {*map(int, sizes.read_text().split()), used(folder / "disk-all")}
    return run, sorted(noted)


@trial("T11", "the disk of a run and its caches is full at a write: exit code 5, same bits once there is room",
       RUN_CASES, measured)  # fmt: skip
def full_at_a_write(case: int, folder: Path, prepared: tuple[Unbroken, list[int]]) -> None:
    """Run into a full disk, make room, and run again."""
    run, sizes = prepared
    size = sizes[case * len(sizes) // RUN_CASES] + (case % 3) * PAGE + PAGE
    with disk(folder / "disk", size) as resize:
        out, cache = folder / "disk" / "run", folder / "disk" / "cache"
        code = go(run.again(out), cache)
        said = (folder / "output.txt").read_text()
        assert code in (0, 5), f"{size} bytes: exit code {code}"
        assert code == 0 or "full" in said or "free" in said, f"{size} bytes: {said[-300:]}"
        resize(64 << 20)
        run.must_end_so(out, cache)


def judged(folder: Path) -> tuple[Path, Path]:
    """A finished run, and labelled images."""
    way(folder, "light")
    return folder / "light", made_images(folder / "labelled", 24, ("a", "b"))


#: Commands that write to a folder D, about the run R and the images I.
WRITING = (
    "embed R --data I --out D/e.npy", "embed R --data I --out D/e.npz", "embed R --data I --out D/e.csv",
    "knn R --data I --out D/knn", "probe R --data I --epochs 1 --out D/probe", "export R --out D/export",
    "convert R/encoder.safetensors D/converted.safetensors", "diagnose-clustering R --data I --out D/diagnosis",
)  # fmt: skip


@trial("T11-commands", "the disk of another command's result is full: exit code 5, and no half of a file",
       5 * len(WRITING), judged)  # fmt: skip
def full_for_a_command(case: int, folder: Path, prepared: tuple[Path, Path]) -> None:
    """Write a result to a full disk."""
    line = WRITING[case // 5]
    size = (1, 2, 6, 24, 96)[case % 5] * PAGE
    names = {"R": str(prepared[0]), "I": str(prepared[1]), "D": str(folder / "disk")}
    words = [
        names.get(word[0], word[0]) + word[1:] if word[0] in names and word[1:2] in ("", "/") else word
        for word in line.split()
    ]
    with disk(folder / "disk", size) as resize:
        code = child([*words, "--quiet"], folder / "cache")
        left = [path.relative_to(folder / "disk") for path in (folder / "disk").rglob("*") if path.is_file()]
        assert code in (0, 5), f"{line} on {size} bytes: exit code {code}"
        assert code == 0 or not [path for path in left if path.name.startswith(".tmp-")], f"{line}: left {left}"
        if code:  # else it is done, and a second time would be refused
            resize(64 << 20)
            again = child([*words, "--quiet"], folder / "cache")
            assert again == 0, f"{line}: refused where there is room; left {left}"
