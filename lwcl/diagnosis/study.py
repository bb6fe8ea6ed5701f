"""The images of a diagnosis: chosen, seen in three views by every encoder, and shown as small photographs."""

import functools

import numpy
from numpy.typing import NDArray
from torch import Tensor

from lwcl.config.eval_options import DiagnoseOptions
from lwcl.data.dataset import BrokenImage, ImageSet, open_images
from lwcl.data.decode import center_crop
from lwcl.data.labelled import match_classes
from lwcl.diagnosis.findings import DiagnosisScope, diagnose_features, held_out_metrics, known_labels
from lwcl.diagnosis.plots.pictures import ImageAlbum, PictureData
from lwcl.diagnosis.subjects import Subject
from lwcl.diagnosis.tables import EncoderMetrics
from lwcl.diagnosis.three_views import ThreeViews, ViewFeatures, ViewsDataset
from lwcl.errors import DataError, UsageError
from lwcl.formatting import escape
from lwcl.reporting.console import Screen
from lwcl.rng import epoch_permutation
from lwcl.system.cpu import usable_cpus
from lwcl.system.device import choose_compute

MIN_DIAGNOSIS_IMAGES = 8  # images: fewer have no clusters to speak of
MIN_IMAGES_FOR_DECODE_WORKERS = 2000  # images are decoded sooner than worker processes start
PHOTO_PIXELS = 80  # pixels of a small photograph
SHOWN_SAMPLES = 6


class Study:
    """The images of a diagnosis, and those held out if there are any, in three views, decoded once for all encoders."""

    def __init__(self, images: ImageSet, held: ImageSet | None, options: DiagnoseOptions, screen: Screen) -> None:
        self.images, self.held, self.options, self.screen = images, held, options, screen
        self.labels = known_labels(images)
        self.broken: set[BrokenImage] = set()
        self._views: dict[object, ThreeViews] = {}

    def views(self, subject: Subject, images: ImageSet) -> ThreeViews:
        """The images as the subject sees them, shared with others that see them so."""
        takes, options = subject.loaded.input_spec, self.options
        key = takes.size, takes.crop_pct, subject.augmentation, images is self.images
        if key not in self._views:
            workers = usable_cpus() if options.workers is None else options.workers
            self._views[key] = ThreeViews(
                ViewsDataset(images, takes, subject.augmentation, options.seed),
                batch_size=options.batch_size,
                workers=workers if len(images) > MIN_IMAGES_FOR_DECODE_WORKERS else 0,
                broken=self.broken.add,
            )
        return self._views[key]

    def features(self, subject: Subject, images: ImageSet) -> tuple[ViewFeatures, Tensor]:
        """The subject's features of images in three views, and the boxes of the random ones. Raises
        `TrainingDivergedError`."""
        seen = self.views(subject, images)
        with self.screen.counting(f"{subject.loaded.name}: features", len(images)) as counting:
            compute = choose_compute(subject.loaded.encoder, self.options.device, self.options.precision)
            found = seen.features(subject.loaded, compute, counting.advance)
        return found, seen.boxes

    def examine(self, subject: Subject, scope: DiagnosisScope) -> tuple[EncoderMetrics, PictureData]:
        """All about a subject."""
        found, boxes = self.features(subject, self.images)
        self.screen.say(f"{escape(subject.loaded.name)}: clusters and neighbours of {len(self.images):,} images ...")
        told, sketch = diagnose_features(found, self.labels, boxes, scope)
        if self.held is None:
            return told, sketch
        bank = found.plain
        del found, boxes  # before the others are computed: memory
        other, _ = self.features(subject, self.held)
        own = None if self.labels is None or not self.held.labelled else self.held.labels
        return told._replace(held_out=held_out_metrics(bank, self.labels, other, own, scope.seed)), sketch

    def photo(self, index: int) -> NDArray[numpy.uint8]:
        """An image as a small photograph."""
        image, _ = self.images.good_image(index, PHOTO_PIXELS)
        return center_crop(image, PHOTO_PIXELS)

    def album(self, first: Subject) -> ImageAlbum:
        """What the pictures need of the images; the sample views are those of the first subject."""
        labels = None if self.labels is None else self.labels.numpy()
        samples = self.views(first, self.images).samples(first.loaded.input_spec, SHOWN_SAMPLES)
        return ImageAlbum(self.images.classes, labels, functools.cache(self.photo), samples, first.views)


def open_study(options: DiagnoseOptions, screen: Screen) -> Study:
    """The images that the options name. Raises `DataError` for too few, `UsageError` for an option's fault."""
    if options.images < MIN_DIAGNOSIS_IMAGES:
        raise UsageError(
            f"--images: {options.images} are too few to examine.", remedy=f"Give at least {MIN_DIAGNOSIS_IMAGES}."
        )
    images = diagnosis_subset(open_images(options.data, "train", download=options.download), options)
    held = None
    if options.val or images.has_splits:
        held = diagnosis_subset(open_images(options.val or options.data, "val", download=options.download), options)
    for name, count, least in (("examine", len(images), MIN_DIAGNOSIS_IMAGES), ("hold out", len(held or images), 2)):
        if count < least:
            images_are = "1 image is" if count == 1 else f"{count} images are"
            raise DataError(f"{images_are} too few to {name}.", remedy=f"Give at least {least}.")
    if max(options.k, default=0) > len(images):
        raise UsageError(
            f"--k: {max(options.k)} clusters of {len(images):,} images cannot be made.",
            remedy=f"Give at most {len(images) // 4:,}, or more --images.",
        )
    study = Study(images, held, options, screen)
    if study.labels is None:
        why = "All labels are of one class" if images.labelled else "There are no labels"
        screen.say(f"{why}: measures that need classes are left out.")
    elif held and held.labelled:
        study.held = match_classes(images, held)
    return study


def diagnosis_subset(images: ImageSet, options: DiagnoseOptions) -> ImageSet:
    """At most `--images` of the images, chosen by the seed, in their order."""
    if len(images) <= options.images:
        return images
    return images.subset(epoch_permutation(len(images), options.seed, 0)[: options.images].sort().values)
