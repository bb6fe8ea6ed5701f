"""Mean and standard deviation of a data set's pixels, for images that no pretrained network has statistics for."""

import numpy as np

from lwcl.data.dataset import ImageSet
from lwcl.data.decode import downscale

MEASURED_IMAGES, MEASURED_SIDE = 512, 128  # images at most, evenly spaced; their longest short side in pixels
MIN_STD = 1e-3  # of a channel that is constant


def measure_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of values in [0, 1]; raises `DataError` if no image is readable."""
    white, sums, count = images.pixel_format.white, np.zeros((2, images.pixel_format.channels)), 0
    for place in np.linspace(0, len(images) - 1, min(MEASURED_IMAGES, len(images))).round().astype(int):
        picture = downscale(images.readable_image(int(place))[0], MEASURED_SIDE)
        values = np.asarray(picture).reshape(-1, sums.shape[1]) / white
        sums += values.sum(0), (values**2).sum(0)
        count += len(values)
    mean, square = sums / count
    std = np.sqrt(np.maximum(square - mean**2, 0)).clip(MIN_STD)
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())
