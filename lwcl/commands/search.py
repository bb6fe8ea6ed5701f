"""`lwcl search`: similar images, near-duplicates and outliers in a file of embeddings."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lwcl.config.device_options import SearchOptions
from lwcl.data.augment.views import normalise_images
from lwcl.data.dataset import ImageSet, open_images
from lwcl.data.decode import center_crop, decode, thumbnail
from lwcl.data.native import UnreadableImageError
from lwcl.diagnosis.plots.thumbnails import NeighbourRow, neighbour_sheet
from lwcl.errors import DataError, LwclError, UsageError
from lwcl.evaluation.embedding_file import EmbeddingSet, read_embeddings
from lwcl.evaluation.publish import publish
from lwcl.evaluation.subjects import load_subject
from lwcl.metrics.nearest import nearest_by_cosine
from lwcl.metrics.similar import near_duplicates, outliers
from lwcl.models.encoder import weights_hash
from lwcl.reporting.console import Screen
from lwcl.reporting.report import Picture, Report, Table
from lwcl.settings import recorded_settings

THUMBNAIL_PIXELS = 96


class Hit(NamedTuple):
    """A result: a cosine, and the images that it is about, as positions among the embeddings."""

    cosine: float
    images: tuple[int, ...]


class SearchResult(NamedTuple):
    """What was found, best first; the query as pixels (H, W, 3) if it is not among the embeddings."""

    title: str
    columns: tuple[str, ...]
    hits: list[Hit]
    query: Any = None


def run_search(image: str, options: SearchOptions, *, as_json: bool = False, quiet: bool = False) -> int:
    """Prints the results as a table or JSON, and writes a page with thumbnails; returns the exit code."""
    if bool(image) + options.duplicates + options.outliers != 1:
        raise UsageError("Nothing to search for.", remedy="Give one of IMAGE, --duplicates and --outliers.")
    if options.embeddings is None:
        raise UsageError("--in is missing.", remedy="Give --in FILE.npy, written by lwcl embed.")
    screen, embeddings = Screen(quiet=quiet), read_embeddings(Path(options.embeddings))
    rows = torch.tensor(embeddings.rows)
    readable = rows.isfinite().all(1).nonzero()[:, 0]
    if len(readable) < 2:
        raise DataError(f"{options.embeddings} has {len(readable)} readable images: too few.")
    found = search_rows(image, options, embeddings, rows[readable])
    hits = [Hit(hit.cosine, tuple(int(readable[one]) for one in hit.images)) for hit in found.hits]
    found = found._replace(hits=hits)
    table = result_table(found, embeddings)
    pictures = draw_results(found, embeddings, options, screen) if options.out else ()
    verdict = f"{found.title}: {len(hits)} shown, of {len(rows):,} images."
    report = Report(
        kind="search",
        title=found.title,
        verdict=verdict,
        tables=(table,),
        pictures=pictures,
        facts={"images": len(rows), "embeddings": embeddings.metadata},
        settings=recorded_settings(options),
    )
    folder = Path(options.out) if options.out else None
    publish(report, screen, folder, tables=[table], lines=[verdict], as_json=as_json)
    return 0


def search_rows(image: str, options: SearchOptions, embeddings: EmbeddingSet, rows: Tensor) -> SearchResult:
    """The results among readable rows (N, D), as positions in these."""
    count = min(options.count, len(rows))
    if options.duplicates:
        cosines, pairs = near_duplicates(rows, options.threshold)
        hits = [Hit(value, tuple(pair)) for value, pair in zip(cosines.tolist(), pairs.tolist(), strict=True)]
        title = f"{len(hits):,} near-duplicate pairs (cosine {options.threshold:g} or more)"
        return SearchResult(title, ("Cosine", "Image", "Label", "Image 2", "Label 2"), hits[:count])
    if options.outliers:
        values, index = outliers(rows)
        hits = [Hit(value, (one,)) for value, one in zip(values.tolist(), index.tolist(), strict=True)]
        return SearchResult("Outliers", ("Mean cosine", "Image", "Label"), hits[:count])
    query, pixels = query_embedding(image, options, embeddings)
    cosines, index = nearest_by_cosine(query[None], rows, count)
    hits = [Hit(value, (one,)) for value, one in zip(cosines[0].tolist(), index[0].tolist(), strict=True)]
    return SearchResult(f"Nearest to {image}", ("Cosine", "Image", "Label"), hits, pixels)


def query_embedding(image: str, options: SearchOptions, embeddings: EmbeddingSet) -> tuple[Tensor, Any]:
    """The embedding (D,) of a query, and its pixels: a file, or else an image among the embeddings.

    Raises `UsageError` for an unknown image or another encoder, `DataError` for an unreadable file.
    """
    if not Path(image).is_file():
        if image not in embeddings.filenames:
            raise UsageError(f"{image}: no such file, nor an image in {options.embeddings}.")
        return torch.tensor(embeddings.rows[embeddings.filenames.index(image)]), None
    told = embeddings.metadata
    name = options.encoder or str(told.get("encoder"))
    loaded = load_subject(name, image_size=told["input"]["size"]).loaded
    if weights_hash(loaded.encoder) != told.get("weights"):
        raise UsageError(
            f"{name} is not the encoder that made {options.embeddings}.",
            "Its weights differ, so cosines would mean nothing.",
            "Run lwcl embed again, or give the right --encoder.",
        )
    spec, encoder = loaded.input_spec, loaded.encoder.eval()
    try:
        decoded = decode(
            Path(image).read_bytes(), min_side=round(spec.size / spec.crop_pct), pixel_format=spec.pixel_format
        )
    except UnreadableImageError as error:
        raise DataError(f"{image}: {error.reason}.") from None
    pixels = center_crop(decoded, spec.size, crop_pct=spec.crop_pct)
    views = normalise_images(
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], **spec.normalisation, channels_last=False
    )
    with torch.inference_mode():
        row: Tensor = (encoder(views) if told.get("head") else encoder.features(views))[0]
    return row.clone(), thumbnail(decoded, THUMBNAIL_PIXELS)


def result_table(found: SearchResult, embeddings: EmbeddingSet) -> Table:
    """The results by name."""
    rows = [
        (
            round(hit.cosine, 4),
            *(text for one in hit.images for text in (embeddings.filenames[one], embeddings.labels[one])),
        )
        for hit in found.hits
    ]
    return Table("", found.columns, tuple(rows))


def draw_results(
    found: SearchResult, embeddings: EmbeddingSet, options: SearchOptions, screen: Screen
) -> tuple[Picture, ...]:
    """The results as a sheet of thumbnails; none where the images are not to be found any more."""
    try:
        told = embeddings.metadata
        images = open_images(options.data or tuple(told.get("data") or ()), **told.get("reading", {}))
    except LwclError as error:
        screen.warn(f"No thumbnails: {error.what}")
        return ()
    places = {name: place for place, name in enumerate(images.names)}
    sheet = [row for row in sheet_rows(found, embeddings, images, places) if row]
    if not sheet:
        screen.warn("No thumbnails: --data has no images of these names.")
        return ()
    return (Picture(found.title, "Images with the cosine of each; the query is large.", neighbour_sheet(sheet)),)


def sheet_rows(
    found: SearchResult, embeddings: EmbeddingSet, images: ImageSet, places: dict[str, int]
) -> list[NeighbourRow]:
    """The rows of the sheet: the query with its hits, or each hit for itself."""

    def photos(positions: tuple[int, ...]) -> list[Any]:
        names = [embeddings.filenames[one] for one in positions]
        known = [places[name] for name in names if name in places]
        return [thumbnail(images.readable_image(place, THUMBNAIL_PIXELS)[0], THUMBNAIL_PIXELS) for place in known]

    if found.columns[0] == "Cosine" and all(len(hit.images) == 1 for hit in found.hits):
        shown = photos(tuple(hit.images[0] for hit in found.hits))
        query: Any = found.query if found.query is not None or not shown else shown[0]
        return [NeighbourRow(query, shown, [None] * len(shown), found.title)] if shown else []
    rows = []
    for hit in found.hits:
        if shown := photos(hit.images):
            text = f"{hit.cosine:.3f} {' / '.join(embeddings.filenames[one] for one in hit.images)}"
            rows.append(NeighbourRow(shown[0], shown[1:], [None] * len(shown[1:]), text))
    return rows
