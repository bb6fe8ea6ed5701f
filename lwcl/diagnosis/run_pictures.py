"""What a run learned, in pictures: a map of its images, neighbours before and after training, confused classes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from lwcl import engine
from lwcl.data.augment.views import normalise_images, shown_views
from lwcl.data.dataset import ImageSet, random_subset
from lwcl.data.eval_loader import center_crop_batches, eval_batches
from lwcl.diagnosis.encoder_metrics import known_labels, select_queries
from lwcl.diagnosis.evidence import centre_features
from lwcl.diagnosis.plots import heat, maps, thumbnails
from lwcl.errors import DataError
from lwcl.evaluation.subjects import untrained_like
from lwcl.formatting import plural
from lwcl.metrics.neighbourhood import Neighbours, nearest_neighbours
from lwcl.models.loaded import InputSpec, LoadedEncoder
from lwcl.reporting.report import Picture
from lwcl.training.state import TrainingState

if TYPE_CHECKING:
    from lwcl.diagnosis.plots.thumbnails import Photo

PICTURED_IMAGES, MAP_PHOTOS = 400, 60
SHEET_QUERIES, SHEET_NEIGHBOURS = 4, 8
MAX_CLASSES = 40  # more rows and columns cannot be told apart


def run_pictures(training: TrainingState) -> Iterator[Picture]:
    """The pictures of a finished run, of a sample of its training images; none where these cannot be read."""
    seed = training.config.options.seed
    after = training.loaded("after training")
    spec = after.input_spec
    try:
        images, pixels, note = good_crops(random_subset(training.images, PICTURED_IMAGES, seed), spec)
    except (DataError, OSError):
        return
    if len(images) <= SHEET_NEIGHBOURS:
        return
    encoders = {"after training": after, "before training": untrained_like(after, seed)}
    features = {name: centred_features(training, one, images, pixels) for name, one in encoders.items()}
    near = {name: nearest_neighbours(rows, SHEET_NEIGHBOURS) for name, rows in features.items()}
    shown = [shown_views(normalise_images(part, **spec.normalisation), spec) for part in pixels]
    photos = list(torch.cat(shown).permute(0, 2, 3, 1).contiguous().numpy())
    labels = known_labels(images)
    colours = spec.pixel_format.false_colours
    drawn = [map_picture(features["after training"], photos, seed, colours)]
    queries = select_queries(torch.arange(len(images)), labels, SHEET_QUERIES).tolist()
    drawn += [neighbour_picture(name, one, queries, images, labels, photos) for name, one in near.items()]
    if labels is not None and len(images.classes) <= MAX_CLASSES:
        drawn.append(confusion_picture(near["after training"], labels, images))
    yield from (picture._replace(caption=picture.caption + note) for picture in drawn)


def good_crops(images: ImageSet, spec: InputSpec) -> tuple[ImageSet, list[Tensor], str]:
    """The images that can be read, their center crops in batches, and a sentence on the others, "" without any.

    Raises `DataError` or `OSError`.
    """
    broken = set[str]()
    crops = center_crop_batches(images, spec, batch_size=64, workers=0, broken=lambda image: broken.add(image.name))
    pixels = list(crops)
    if not broken:
        return images, pixels, ""
    good = torch.tensor([place for place, name in enumerate(images.names) if name not in broken])
    return images.subset(good), [torch.cat(pixels)[good]], f" Left out: {plural(len(broken), 'broken image')}."


def centred_features(training: TrainingState, loaded: LoadedEncoder, images: ImageSet, pixels: list[Tensor]) -> Tensor:
    """Mean-centred unit features (N, D) of an encoder."""
    encoder, compute = training.compute.place(loaded.encoder), training.compute
    batches = eval_batches(pixels, images.labels, loaded.input_spec, compute)
    return centre_features(engine.extract_features(encoder, batches, compute, len(images)))


def map_picture(features: Tensor, photos: "list[Photo]", seed: int, colours: str) -> Picture:
    """A t-SNE map of the images, some of them as thumbnails."""
    places = maps.tsne_coordinates(features.numpy(), seed)
    caption = f"t-SNE of {plural(len(places), 'training image')} by the trained encoder: similar ones should be close."
    caption += f" Images in {colours}." * bool(colours)
    return Picture("Map of the images", caption, thumbnails.photo_map(places, photos, MAP_PHOTOS))


def neighbour_picture(
    name: str, near: Neighbours, queries: list[int], images: ImageSet, labels: Tensor | None, photos: "list[Photo]"
) -> Picture:
    """Some images and their nearest neighbours."""
    rows = []
    for query in queries:
        others = near.indices[query].tolist()
        correct = [None if labels is None else bool(labels[query] == labels[other]) for other in others]
        text = images.classes[int(labels[query])] if labels is not None and labels[query] >= 0 else ""
        rows.append(thumbnails.NeighbourRow(photos[query], [photos[other] for other in others], correct, text))
    caption = "Large: an image. Small: those that the encoder finds most similar, the nearest first."
    caption += "" if labels is None else " Tick: same class; cross: another class."
    return Picture(f"Nearest neighbours {name}", caption, thumbnails.neighbour_sheet(rows))


def confusion_picture(near: Neighbours, labels: Tensor, images: ImageSet) -> Picture:
    """Which classes the nearest neighbours of a class have."""
    count = len(images.classes)
    counts = numpy.zeros((count, count), numpy.int64)
    known = (labels[:, None] >= 0) & (labels[near.indices] >= 0)
    rows, columns = labels[:, None].expand_as(near.indices)[known], labels[near.indices][known]
    numpy.add.at(counts, (rows.numpy(), columns.numpy()), 1)
    caption = "Percent of the nearest neighbours of a class (row) that are of each class. Good: a dark diagonal."
    return Picture("Confusion of classes", caption, heat.heat_map(counts, images.classes, "class, neighbours"))
