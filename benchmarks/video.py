"""Clips whose motion no single frame shows: a net over single frames must fail on them, one over clips must not.

Claim: a net over single frames is at chance (10%), one over clips is not, and pretraining adds to what a linear probe
reads from a net over frames, not to one of 3-D convolutions. The figures of `--arch resnet10t` stand in docs/video.md.

Ten motions are the classes: right, left, up, down, clockwise, counter-clockwise, in, out, still, to and fro. Textures
(lwcl's own, drawn) are few and the same in all classes and splits, and the pose of the frame in the middle has the same
distribution in every class, so it tells nothing.

    python benchmarks/video.py [--arch resnet10t] [--videos 60] [--epochs 20] [--ways NAME ...] [--smoke]
    python benchmarks/video.py --footage bikes.mp4 vtest.avi    clips cut from real videos instead; the classes are
                               how they are played: still, normal, backwards, three times as fast, shuffled
    python benchmarks/video.py --teacher efficientnet-lite0.pth  also a student of this image encoder over frames

Also: decoded frames a second by PyAV, beside torchcodec where it is installed (it needs the system's FFmpeg), and what
the store of the clips takes. Everything is done by the commands that a user types.
"""

import argparse
import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy
from PIL import Image

from lwcl.cli import main
from lwcl.data.demo.builtin import BUILTIN_SETS
from lwcl.data.video import decode_video
from lwcl.models.pixel_format import PixelFormat

FRAMES = 25  # of a made video: the one in the middle is at time 0, where all motions agree
FAST = 3  # times the speed of footage played fast
Pose = tuple[float, float, float, float]  # shift to the right and down in pixels, turn in radians, log of the scale
#: What a motion adds to the pose at time t, from -1 to 1.
MOTIONS: dict[str, Callable[[float], Pose]] = {
    "right": lambda t: (14 * t, 0, 0, 0),
    "left": lambda t: (-14 * t, 0, 0, 0),
    "down": lambda t: (0, 14 * t, 0, 0),
    "up": lambda t: (0, -14 * t, 0, 0),
    "clockwise": lambda t: (0, 0, 0.7 * t, 0),
    "counter": lambda t: (0, 0, -0.7 * t, 0),
    "in": lambda t: (0, 0, 0, 0.35 * t),
    "out": lambda t: (0, 0, 0, -0.35 * t),
    "still": lambda t: (0, 0, 0, 0),
    "shake": lambda t: (8 * math.sin(3 * math.pi * t), 0, 0, 0),
}


def frame_at(texture: Image.Image, pose: Pose, side: int) -> Any:
    """The middle of a texture, moved, turned and zoomed: (side, side, 3) uint8."""
    right, down, turn, zoom = pose
    scale, half = math.exp(-zoom), side / 2
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    centre = (texture.width / 2 - right, texture.height / 2 - down)
    matrix = (a, b, centre[0] - a * half - b * half, -b, a, centre[1] + b * half - a * half)
    return numpy.asarray(texture.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def write_clip(path: Path, frames: list[Any], codec: str = "libx264", rate: int = 25) -> None:
    """A video file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())


def draw_videos(folder: Path, a_class: dict[str, int], side: int, textures: int) -> None:
    """The given number of videos of each class in the splits `train` and `val`, of the same textures."""
    pixels = BUILTIN_SETS["textures"]().reader.pixels
    rng = numpy.random.default_rng(0)
    chosen = rng.choice(len(pixels), textures, replace=False)
    large = [Image.fromarray(pixels[row]).resize((3 * side, 3 * side), Image.Resampling.BICUBIC) for row in chosen]
    for split, count in a_class.items():
        for name, motion in MOTIONS.items():
            for number in range(count):
                start = (*rng.uniform(-2, 2, 2), *rng.uniform(-0.1, 0.1, 2))  # small: only motion tells videos apart
                times = numpy.linspace(-1, 1, FRAMES)
                poses = [tuple(one + more for one, more in zip(start, motion(t), strict=True)) for t in times]
                texture = large[rng.integers(textures)]
                write_clip(folder / split / name / f"{number:04}.mp4", [frame_at(texture, p, side) for p in poses])


#: The frames, counted from the middle of a clip, that each way of playing shows; all show the same one in the middle.
PLAYED: dict[str, Callable[[numpy.random.Generator], Any]] = {
    "still": lambda rng: numpy.zeros(FRAMES, int),
    "normal": lambda rng: numpy.arange(FRAMES) - FRAMES // 2,
    "backwards": lambda rng: FRAMES // 2 - numpy.arange(FRAMES),
    "fast": lambda rng: FAST * (numpy.arange(FRAMES) - FRAMES // 2),
    "shuffled": lambda rng: numpy.insert(rng.permutation([*range(-(FRAMES // 2), 0), *range(1, FRAMES // 2 + 1)]),
                                         FRAMES // 2, 0),
}  # fmt: skip


def cut_videos(folder: Path, a_class: dict[str, int], side: int, footage: list[Path]) -> None:
    """Clips of random regions and times of real videos; those of `val` from the last third of each video."""
    rng, reach = numpy.random.default_rng(0), FAST * (FRAMES // 2)
    for file in footage:
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        border = len(frames) * 2 // 3
        for split, count in a_class.items():
            first, last = (reach, border - reach) if split == "train" else (border + reach, len(frames) - reach)
            if first >= last:
                raise SystemExit(f"{file}: {len(frames)} frames; at least {6 * reach + 6} are needed")
            for name, played in PLAYED.items():
                for number in range(count):
                    middle = rng.integers(first, last)
                    shown = [frames[middle + shift] for shift in played(rng)]
                    write_clip(folder / split / name / f"{file.stem}-{number:04}.mp4", cropped(shown, side, rng))


def cropped(frames: list[Any], side: int, rng: numpy.random.Generator) -> list[Any]:
    """A random square region of frames, the same in all: (side, side, 3) uint8 each."""
    height, width, _ = frames[0].shape
    edge = int(min(height, width) * rng.uniform(0.5, 1))
    top, left = rng.integers(0, height - edge + 1), rng.integers(0, width - edge + 1)
    regions = (Image.fromarray(frame[top : top + edge, left : left + edge]) for frame in frames)
    return [numpy.asarray(region.resize((side, side), Image.Resampling.BILINEAR)) for region in regions]


def lwcl(*words: str) -> Any:
    """What a command says as JSON, run in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main.main([*words, "--json", "--quiet"])
    if code:
        raise SystemExit(f"lwcl {' '.join(words)}: exit code {code}")
    return json.loads(said.getvalue())


def scored(command: str, run: str, videos: Path, out: Path) -> str:
    """Top-1 of an encoder and of its untrained twin, each with its interval, by `knn` or `probe`."""
    document = lwcl(command, run, "--data", str(videos), "--out", str(out / command))
    return ", untrained ".join(f"{row[1]} ({row[2]})" for row in document["tables"][0]["rows"])


def decoding(folder: Path, seconds: float, size: tuple[int, int]) -> Iterator[str]:
    """Decoded frames a second of a larger made video, shrunk to 140 px."""
    rng = numpy.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (90, 160, 3), dtype=numpy.uint8))
    large = numpy.asarray(noise.resize((2 * size[0], 2 * size[1]), Image.Resampling.BICUBIC))
    count = round(25 * seconds)
    frames = [large[row : row + size[1], 2 * row : 2 * row + size[0]] for row in (n % size[1] for n in range(count))]
    for codec, name in (("libx264", "h264.mp4"), ("mpeg4", "mpeg4.avi"), ("libvpx-vp9", "vp9.webm")):
        write_clip(folder / name, frames, codec)
        begun = time.perf_counter()
        decode_video(folder / name, PixelFormat(frames=8, stride=4), 140)
        speeds = [f"PyAV {count / (time.perf_counter() - begun):.0f}"]
        try:
            from torchcodec.decoders import VideoDecoder

            begun = time.perf_counter()
            VideoDecoder(str(folder / name), num_ffmpeg_threads=1).get_frames_in_range(0, count, 4)
            speeds.append(f"torchcodec {count / (time.perf_counter() - begun):.0f}")
        except (ImportError, RuntimeError, OSError) as error:
            speeds.append(f"torchcodec: {' '.join(str(error).split())[:60]}")
        yield f"{name}, {size[0]} x {size[1]}, every 4th kept: {', '.join(speeds)} frames/s"


def ways(arch: str) -> dict[str, list[str]]:
    """The flags of each way of seeing a video, by its name."""
    return {
        "single frame": ["--clip", "1x1", "--temporal", "mean", "--arch", arch],
        "clip, mean": ["--clip", "8x2", "--temporal", "mean", "--arch", arch],
        "clip, shift": ["--clip", "8x2", "--temporal", "shift", "--arch", arch],
        "clip, 3-D": ["--clip", "8x2", "--arch", "video/s3d"],
    }


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description="motion that no single frame shows")
    parser.add_argument("--arch", default="test_resnet")
    parser.add_argument("--videos", type=int, default=60, help="of each of ten classes, for training")
    parser.add_argument("--textures", type=int, default=6)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=60)
    parser.add_argument("--ways", nargs="+", metavar="NAME", help="rows of the table, such as 'clip, shift' [all]")
    parser.add_argument("--footage", nargs="+", type=Path, help="real videos that clips are cut from")
    parser.add_argument("--teacher", help="an image encoder, such as efficientnet-lite0.pth")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.videos, args.epochs, args.batch, args.side = 4, 1, 10, 32
    return args


def compare(root: Path, args: argparse.Namespace) -> None:
    """Trains each way on the videos below `root`, and a student of the last one; prints a line for each."""
    videos = root / "videos"
    common = ["--data", str(videos), "--image-size", "32", "--flip-p", "0", "--epochs", str(args.epochs)]
    common += [
        "--batch-size",
        str(args.batch),
        "--aspect",
        "1",
        "--crop-min",
        "0.6",
        "--threads",
        "1",
        "--workers",
        "0",
    ]
    runs: dict[str, list[str]] = {name: ["pretrain", *flags] for name, flags in ways(args.arch).items()}
    shift = ways(args.arch)["clip, shift"]
    for teacher in (f"random/{args.arch}", str(root / "clip, shift"), *([args.teacher] if args.teacher else [])):
        words = ["compress", *shift, "--method", "regression", "--teacher", teacher]
        words += ["--teacher-size", "64"] if teacher == args.teacher else []
        runs[f"student of {Path(teacher).name}"] = words
    for name, words in runs.items():
        if args.ways and name not in args.ways:
            continue
        lwcl(*words, *common, "--out", str(root / name))
        scores = [f"{command} top-1 {scored(command, str(root / name), videos, root)}" for command in ("knn", "probe")]
        print(f"{name:24} {'; '.join(scores)}", flush=True)


def run() -> None:
    """Makes the clips, trains, and prints the tables."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="lwcl-") as scratch:
        root = Path(scratch)
        for line in decoding(root, 0.4 if args.smoke else 10, (160, 90) if args.smoke else (640, 360)):
            print(line, flush=True)
        a_class = {"train": args.videos, "val": max(1, args.videos // 2)}
        if args.footage:
            cut_videos(root / "videos", a_class, args.side, args.footage)
        else:
            draw_videos(root / "videos", a_class, args.side, args.textures)
        files = [*(root / "videos" / "train").rglob("*.mp4")]
        stored = sum(len(decode_video(file, PixelFormat(frames=8, stride=2), 40).tobytes()) for file in files)
        on_disk = sum(file.stat().st_size for file in files)
        print(f"{len(files)} videos: {on_disk / 1e6:.1f} MB as files, {stored / 1e6:.1f} MB in the store", flush=True)
        compare(root, args)


if __name__ == "__main__":
    run()
