"""The images of a diagnosis: their selection, three views of each, features of the views, and thumbnails."""

import functools

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwcl.config.eval_options import DiagnoseOptions
from lwcl.data.copies import first_of_each
from lwcl.data.dataset import BrokenImage, ImageSet, open_images, random_subset
from lwcl.data.decode import thumbnail
from lwcl.data.labelled import match_classes
from lwcl.data.workers import worker_count
from lwcl.diagnosis.encoder_metrics import DiagnosisScope, diagnose_features, held_out_metrics, known_labels
from lwcl.diagnosis.plots.pictures import ImageAlbum, PictureData
from lwcl.diagnosis.results import EncoderMetrics
from lwcl.diagnosis.subjects import DiagnosisSubject
from lwcl.diagnosis.three_views import ThreeViews, ViewFeatures, ViewsDataset
from lwcl.errors import DataError, UsageError
from lwcl.formatting import escape, plural
from lwcl.reporting.console import Screen
from lwcl.system.device import choose_compute

MIN_DIAGNOSIS_IMAGES, MIN_HELD_OUT_IMAGES = 8, 2
THUMBNAIL_PIXELS = 80
SHOWN_SAMPLES = 6


class DiagnosisData:
    """The images of a diagnosis, and held-out ones if there are any, each in three views."""

    def __init__(self, images: ImageSet, held_out: ImageSet | None, options: DiagnoseOptions, screen: Screen) -> None:
        self.images, self.held_out, self.options, self.screen = images, held_out, options, screen
        self.labels = known_labels(images)
        self.distinct: Tensor | None = None  # positions without those of copies, after the first pass
        self.broken: set[BrokenImage] = set()
        self._views: dict[object, ThreeViews] = {}

    def views(self, subject: DiagnosisSubject, images: ImageSet) -> ThreeViews:
        """The views of the images for a subject, shared by subjects with the same input size and augmentation."""
        spec, options = subject.loaded.input_spec, self.options
        key = spec.size, spec.crop_pct, subject.augmentation, images is self.images
        if key not in self._views:
            self._views[key] = ThreeViews(
                ViewsDataset(images, spec, subject.augmentation, options.seed),
                batch_size=options.batch_size,
                workers=worker_count(options.workers, len(images)),
                broken=self.broken.add,
            )
        return self._views[key]

    def features(self, subject: DiagnosisSubject, images: ImageSet) -> tuple[ViewFeatures, Tensor]:
        """The subject's features of images in three views, and the boxes (2, N, 4) of the random ones.

        Raises `TrainingDivergedError` if the features are not finite.
        """
        views, loaded = self.views(subject, images), subject.loaded
        with self.screen.counting(f"{loaded.name}: features", len(images)) as counting:
            compute = choose_compute(loaded.encoder, self.options.device, self.options.precision)
            features = views.features(loaded, compute, counting.advance)
        return features, views.boxes

    def examine(self, subject: DiagnosisSubject, scope: DiagnosisScope) -> tuple[EncoderMetrics, PictureData]:
        """All metrics of a subject, and the data of its plots."""
        features, boxes = self.distinct_only(subject, *self.features(subject, self.images))
        name, seed = escape(subject.loaded.name), scope.seed
        self.screen.say(f"{name}: clustering and nearest neighbours of {plural(len(features.plain), 'image')}")
        metrics, picture_data = diagnose_features(features, self.labels, boxes, scope)
        if self.held_out is None:
            return metrics, picture_data
        bank = features.plain
        del features, boxes  # frees their memory before those of the held-out images are computed
        held_out_features, _ = self.features(subject, self.held_out)
        labels = None if self.labels is None or not self.held_out.labelled else self.held_out.labels
        held_out = held_out_metrics(bank, self.labels, held_out_features, labels, seed)
        return metrics._replace(held_out=held_out), picture_data

    def distinct_only(
        self, subject: DiagnosisSubject, features: ViewFeatures, boxes: Tensor
    ) -> tuple[ViewFeatures, Tensor]:
        """Features and boxes without those of copies, which are nobody's own view; so are the labels from here on.

        Raises `DataError` where too few different images are left: then the data are to blame, not the encoder.
        """
        if self.distinct is None:
            self.distinct = torch.tensor(first_of_each(self.views(subject, self.images).hashes))
            count, total = len(self.distinct), len(self.images)
            if count < MIN_DIAGNOSIS_IMAGES:
                what = f"{plural(total, 'image')}, of which {count} different: too few to examine."
                raise DataError(what, "The data are to blame, not the encoder.", "Give other images.")
            if count < total:
                share = f"{total - count:,} of {plural(total, 'image')}"
                self.screen.warn(f"{share} are copies of others, pixel for pixel: they are left out.")
                self.labels = None if self.labels is None else self.labels[self.distinct]
        kept = self.distinct
        return ViewFeatures(*(rows[kept] for rows in features)), boxes[:, kept]

    def thumbnail(self, index: int) -> NDArray[numpy.uint8]:
        """An image as a thumbnail (side, side, 3)."""
        position = index if self.distinct is None else int(self.distinct[index])
        image, _ = self.images.readable_image(position, THUMBNAIL_PIXELS)
        return thumbnail(image, THUMBNAIL_PIXELS)

    def album(self, first: DiagnosisSubject) -> ImageAlbum:
        """The images as the plots show them; the sample views are those of the first subject."""
        labels = None if self.labels is None else self.labels.numpy()
        colours = first.loaded.input_spec.pixel_format.false_colours
        views = f"{first.views}; in {colours}" if colours else first.views
        samples = self.views(first, self.images).samples(first.loaded.input_spec, SHOWN_SAMPLES)
        return ImageAlbum(self.images.classes, labels, functools.cache(self.thumbnail), samples, views)


def open_diagnosis_data(options: DiagnoseOptions, screen: Screen) -> DiagnosisData:
    """The images that the options name. Raises `DataError` for too few, `UsageError` for a wrong option."""
    if options.images < MIN_DIAGNOSIS_IMAGES:
        raise UsageError(f"--images {options.images}: too few.", remedy=f"Give at least {MIN_DIAGNOSIS_IMAGES}.")
    images = random_subset(
        open_images(options.data, "train", **options.reading),
        options.images,
        options.seed,
    )
    require_images(len(images), MIN_DIAGNOSIS_IMAGES, "to examine")
    for note in images.notes:
        screen.warn(note)
    held_out = None
    if options.val or images.has_splits:
        held_out = open_images(
            options.val or options.data,
            "val",
            **options.reading,
        )
        held_out = random_subset(held_out, options.images, options.seed)
        require_images(len(held_out), MIN_HELD_OUT_IMAGES, "to hold out")
    if max(options.k, default=0) > len(images):
        raise UsageError(
            f"--k {max(options.k)}: more clusters than the {plural(len(images), 'image')}.",
            remedy=f"Give at most {len(images) // 4:,}, or more --images.",
        )
    data = DiagnosisData(images, held_out, options, screen)
    if data.labels is None:
        why = "All labels are of one class" if images.labelled else "No labels"
        screen.say(f"{why}: metrics that need classes are left out.")
    elif held_out and held_out.labelled:
        pair = match_classes(images, held_out, known_classes=True)
        data.held_out = pair.queries
        for note in pair.notes:
            screen.warn(note)
    return data


def require_images(count: int, least: int, purpose: str) -> None:
    """Raises `DataError` for too few images."""
    if count < least:
        raise DataError(f"{plural(count, 'image')}: too few {purpose}.", remedy=f"Give at least {least}.")
