"""`lwcl embed`: the embeddings of images as a file."""

from pathlib import Path
from typing import Any

import torch

from lwcl.config.device_options import EmbedOptions
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.workers import worker_count
from lwcl.errors import UsageError
from lwcl.evaluation.embedder import Embedder
from lwcl.evaluation.embedding_file import EmbeddingSet, check_embedding_path, write_embeddings
from lwcl.evaluation.subjects import for_clips, load_subject
from lwcl.formatting import SCHEMA_VERSION, plural
from lwcl.models.encoder import weights_hash
from lwcl.models.loaded import LoadedEncoder
from lwcl.reporting.console import Screen, print_json
from lwcl.system.atomic_files import format_bytes, remove_path
from lwcl.system.device import choose_compute
from lwcl.system.limits import usable_cpus


def run_embed(encoder: str, options: EmbedOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Writes a row for each image of `--data`, in the order of their names; returns the exit code."""
    if options.out is None:
        raise UsageError("--out is missing.", remedy="Give --out FILE.npy (or .npz, .csv, .parquet).")
    screen, path = Screen(quiet=quiet), Path(options.out)
    check_embedding_path(path, overwrite=options.overwrite)
    torch.set_num_threads(options.threads or usable_cpus())
    subject = load_subject(encoder, arch=options.arch, image_size=options.image_size)
    options, (subject,) = for_clips(options, [subject])
    loaded = subject.loaded
    if options.head and not loaded.encoder.head_widths:
        raise UsageError(f"{encoder} has no projection head.", remedy="Leave --head out.")
    images = open_images(options.data, **options.reading)
    compute = choose_compute(loaded.encoder, options.device, options.precision)
    workers = worker_count(options.workers, len(images))
    embedder = Embedder(loaded, images, compute, head=options.head, batch_size=options.batch_size, workers=workers)
    metadata = describe_embeddings(encoder, loaded, images, options, embedder.width)
    partial = path.with_name(f".{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = {**metadata, "batch_size": options.batch_size, "compute": str(compute)}
    rows = embedder.fill(partial, fingerprint, screen)
    write_embeddings(path, EmbeddingSet(rows, images.names, class_names(images), metadata))
    remove_path(partial)
    if embedder.broken:
        screen.warn(f"{plural(len(embedder.broken), 'image')} could not be read: NaN in their rows.")
    screen.say(f"{len(rows):,} x {embedder.width} embeddings: {path} ({format_bytes(path.stat().st_size)})")
    if as_json:
        print_json({**metadata, "images": len(rows), "file": str(path), "broken": sorted(embedder.broken)})
    return 0


def describe_embeddings(
    encoder: str, loaded: LoadedEncoder, images: ImageSet, options: EmbedOptions, width: int
) -> dict[str, Any]:
    """The metadata of a file of embeddings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "embeddings",
        "encoder": encoder,
        "arch": loaded.encoder.arch,
        "weights": weights_hash(loaded.encoder),
        "input": loaded.input_spec.as_json(),
        "head": options.head,
        "width": width,
        "data": list(options.data),
        "reading": options.pixels,
        "fingerprint": images.fingerprint,
    }


def class_names(images: ImageSet) -> list[str]:
    """The class of each image by name, "" where it has none."""
    return [images.classes[label] if label >= 0 else "" for label in images.labels.tolist()]
