"""The index of a million images in tar shards: how long it takes to make and to open, what it takes on disk and memory.

Claim: see docs/scale.md, which has the figures. Made: 1,000,000 PNGs of 8 x 8 pixels, each with its class in a
`.cls` file, in 100 shards, 2 GB in a temporary folder (`--folder`); then two processes open them after one another as
one `--data` pattern, the first without an index in the cache folder. Memory kept is what is the process's own; the
index file is mapped beside it and shared. Times of the CPU tell more than the clock, which depends on the disk.

    python benchmarks/index.py [--images 1000000] [--shards 100] [--folder /tmp] [--smoke]
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lwcl.data.dataset import open_images

RESULTS = Path(__file__).with_name("results.jsonl")
PICTURES, PER_CLASS, BLOCK = 1000, 1000, 512  # different pictures, images of a class, bytes of a tar's block


def pictures() -> list[bytes]:
    """Different PNGs of 8 x 8 pixels."""
    random, found = np.random.default_rng(0), []
    for _ in range(PICTURES):
        content = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "png")
        found.append(content.getvalue())
    return found


def made_shards(folder: Path, images: int, shards: int) -> int:
    """Writes the shards; returns their bytes."""
    content = pictures()
    for shard in range(shards):
        with open(folder / f"train-{shard:04}.tar", "wb") as file:
            for number in range(shard * images // shards, (shard + 1) * images // shards):
                label = str(number // PER_CLASS).encode()
                for name, data in ((f"{number:09}.png", content[number % PICTURES]), (f"{number:09}.cls", label)):
                    head = tarfile.TarInfo(name)
                    head.size, head.mtime = len(data), 1_700_000_000
                    file.write(head.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK))
            file.write(bytes(20 * BLOCK))
    return sum(path.stat().st_size for path in folder.iterdir())


def memory(file: str, field: str) -> int:
    """Bytes that a file of /proc/self says of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self", file).read_text())
    return 1024 * int(found[1]) if found else 0


def opened(pattern: str) -> dict[str, Any]:
    """What opening the images takes in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    own, all_of_it = memory("smaps_rollup", "Anonymous"), memory("status", "VmRSS")
    clock, cpu = time.perf_counter(), time.process_time()
    images = open_images([pattern], "train")
    taken = {"cpu_s": time.process_time() - cpu, "clock_s": time.perf_counter() - clock}
    kept, peak = memory("smaps_rollup", "Anonymous") - own, memory("status", "VmHWM") - all_of_it
    count = len(images)
    assert images.image(count // 2).size == (8, 8)
    return taken | {"images": count, "classes": len(images.classes), "kept_bytes": kept / count, "peak_bytes": peak}


def main() -> None:
    """Makes the shards, opens them twice, prints what that took, and appends it to results.jsonl."""
    parser = argparse.ArgumentParser(description="The index of a million images in tar shards.")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument(
        "--folder", default=None, help="where the shards are made, 2 GB (default: the temporary folder)"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny, and kept nowhere")
    parser.add_argument("--open", default="", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.open:
        print(json.dumps(opened(told.open)))
        return
    images, shards = (2000, 4) if told.smoke else (told.images, told.shards)
    with tempfile.TemporaryDirectory(dir=told.folder) as folder:
        data, cache = Path(folder, "shards"), Path(folder, "cache")
        data.mkdir()
        size = made_shards(data, images, shards)
        environment = os.environ | {"LWCL_CACHE": str(cache)}
        command = [sys.executable, __file__, "--open", f"{data}/train-{{0000..{shards - 1:04}}}.tar"]
        for start in ("first", "later"):
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)  # noqa: S603
            index = sum(path.stat().st_size for path in (cache / "index").iterdir())
            row = {"benchmark": "index", "date": f"{datetime.now(UTC):%Y-%m-%d}", "start": start, "shards": shards}
            row |= {"shard_bytes": size, "index_bytes": index / images} | json.loads(done.stdout)
            print(json.dumps(row), flush=True)
            if not told.smoke:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
