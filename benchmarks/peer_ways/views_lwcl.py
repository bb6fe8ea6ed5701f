"""Views as `lwcl pretrain` makes them: the batches of a run's loader. Told by options as `lwcl_moco`."""

import time
from collections.abc import Callable

from peer_ways.lwcl_moco import training_of
from peer_ways.turns import Work, serve, timed


def start(work: Work) -> Callable[[int], float]:
    """Batches of them, one after the other over all turns."""
    training = training_of(work)

    def steps(count: int) -> None:
        first, training.done = training.done, training.done + count
        for _ in training.loader.batches(first, training.done):
            pass

    return timed(steps, time.process_time)


if __name__ == "__main__":
    serve(start, "torch", "torchvision", "pillow", "opencv-python-headless")
