"""Files made to harm, given to every command that reads one: refused in words, quickly, in little memory."""

import contextlib
import os
import resource
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files as files
from runs import made_images, ran
from test_foreign_refusals import HOSTILE, RUNS, SHELL, Calls
from trials import trial

from lwcl.data.dataset import open_images
from lwcl.data.decode import UnreadableImageError

MOST_SECONDS, MOST_MB = 20, 1000


def bomb(place: Path) -> None:
    """A zip that unpacks to a thousand times its size."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "archive/data.pkl", "archive/version"):
            archive.writestr(name, bytes(200 << 20))


def escaping(place: Path) -> None:
    """A tar with members that lead out, links and devices."""
    with tarfile.open(place, "w") as archive:
        for name, kind, target in (
            ("../../out.png", tarfile.REGTYPE, ""), ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "link.png"), ("null.png", tarfile.CHRTYPE, ""),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)


def yaml_tag(place: Path) -> None:
    """YAML that would run a shell."""
    place.write_text(f"data: !!python/object/apply:os.system ['{SHELL}']\n")


def yaml_bomb(place: Path) -> None:
    """YAML whose anchors multiply to billions."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    place.write_text("\n".join(lines) + "\ndata: *a9\n")


TWELVE: dict[str, Callable[[Path], Any]] = {
    "pickle that runs a shell": HOSTILE["pickle that runs a shell"],
    "old pickle that runs a shell": HOSTILE["old pickle that runs a shell"],
    "pickle that allocates": lambda place: files.save_pickled(place, {"a": Calls(bytearray, 10**11)}),
    "object array": HOSTILE["object array"],
    "header of 2^63 bytes": HOSTILE["header of 2^63 bytes"],
    "overlapping tensors": HOSTILE["overlapping tensors"],
    "zip bomb": bomb,
    "tar that leads out": escaping,
    "YAML that runs a shell": yaml_tag,
    "YAML bomb": yaml_bomb,
    "link to a device": HOSTILE["link to a device"],
    "pipe": HOSTILE["pipe"],
}
#: The commands, F being the file.
READING = {
    "knn F --data I": ".pth", "probe F --data I": ".safetensors", "convert F O": ".pt",
    "embed F --data I --out O.npy": ".bin",
    "search I/a/000.png --in F": ".npy", "search I/a/000.png --in  F": ".npz", "pretrain --data F --out O": ".zip",
    "pretrain --data  F --out O": ".tar", "pretrain --data   F --out O": ".csv", "pretrain --config F --out O": ".yaml",
    "pretrain --data I --init F --out O": ".onnx", "distill --data I --teacher F --out O": ".onnx",
}  # fmt: skip


PROMISE = (
    f"{len(TWELVE)} hostile files, each given to {len(READING)} readers: exit code 2, 4 or 5 in {MOST_SECONDS} s and "
    f"{MOST_MB} MB, nothing executed or written"
)


@trial("T28", PROMISE, len(TWELVE) * len(READING))
def attacked(case: int, folder: Path, prepared: None) -> None:
    """Give a hostile file to a command."""
    name, (line, suffix) = list(TWELVE)[case % len(TWELVE)], list(READING.items())[case // len(TWELVE)]
    made_images(folder / "images", 8, ("a", "b"))
    place = folder / f"hostile{suffix}"
    TWELVE[name](place)
    before = set(folder.rglob("*"))
    events: list[str] = []
    sys.addaudithook(lambda event, arguments: events.append(event) if event in RUNS else None)
    names = {"F": str(place), "I": str(folder / "images"), "O": str(folder / "out")}
    words = [
        names[word[0]] + word[1:] if word[0] in names and word[1:2] in ("", "/", ".") else word for word in line.split()
    ]
    begun, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = ran(words)
    assert code in (2, 4, 5), f"{line} of {name}: exit code {code}"
    assert time.process_time() - begun < MOST_SECONDS, f"{line} of {name}: {time.process_time() - begun:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < MOST_MB, f"{line} of {name}: {grown:.0f} MB"
    assert not events, f"{line} of {name}: {events}"
    made = {path.name for path in folder.rglob("*") if path not in before and "cache" not in path.parts}
    assert made <= {"cache", "out", ".lock"}, f"{line} of {name} left {made}"
    assert os.path.lexists(place)


#: Links that lead out of a folder of images, or nowhere, by the name of the link; S is a folder of images beside it.
LINKS = {
    "etc": "/etc", "all": "/", "above": "..", "here": ".", "self": "self", "ring": "../F/ring2", "ring2": "ring",
    "gone": "/nowhere/at/all", "beside": "S", "chain": "beside", "deep": "../S/a/../a", "zero.png": "/dev/zero",
    "tty.png": "/dev/tty", "memory.png": "/proc/self/mem", "passwd.png": "/etc/passwd", "one.png": "S/a/000.png",
    "pipe.png": "P", "\nname": "/etc", "%s": "S/b", "x" * 250: "S",
}  # fmt: skip


@trial("T30", f"a folder with {len(LINKS)} links to /etc, devices, pipes, circles: not followed, and counted; followed "
       "if asked for, without an end or a wait", 2 * len(LINKS))  # fmt: skip
def linked(case: int, folder: Path, prepared: None) -> None:
    """Put links among images, one kind or all."""
    images, beside = made_images(folder / "F", 6), made_images(folder / "S", 4, ("a", "b"))
    os.mkfifo(folder / "P")
    names = list(LINKS) if case >= len(LINKS) else [list(LINKS)[case]]
    for name in names:
        target = LINKS[name]
        (images / name).symlink_to(f"{folder}/{target}" if target[0] in "SP" else target)
    kept = [f"{number:03}.png" for number in range(6)]
    signal.alarm(60)
    found = open_images([str(images)])
    assert found.names == kept, set(found.names) - set(kept)
    assert f"{len(names)} link" in found.notes[0], found.notes
    followed = open_images([str(images)], follow_links=True)
    for number, name in enumerate(followed.names):
        outside = name not in kept
        assert not outside or os.path.realpath(images / name).startswith((str(beside), "/etc", "/usr", "/proc")), name
        with contextlib.suppress(UnreadableImageError):
            assert followed.image(number).size == (24, 24)
