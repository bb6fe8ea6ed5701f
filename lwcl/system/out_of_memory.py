"""Explains out-of-memory errors: what was too large, and the command to try next."""

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lwcl.errors import LwclError, UsageError
from lwcl.settings import SettingValue

#: In the messages of torch's CUDA and CPU allocators, where they raise no class of their own.
OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; does not import torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY_PHRASES)


@contextlib.contextmanager
def explain_out_of_memory(settled: Mapping[str, SettingValue], arguments: Sequence[str]) -> Iterator[None]:
    """Turns out-of-memory errors into a `UsageError` with batch, image size and the command to try next.

    `settled` are the settings of the run, `arguments` the words after `lwcl`.
    """
    try:
        yield
    except LwclError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error({name: setting.value for name, setting in settled.items()}, arguments) from error


def out_of_memory_error(values: dict[str, Any], arguments: Sequence[str]) -> UsageError:
    """The error for settings that need too much memory: suggests micro-batches first, then a smaller batch."""
    batch: Any = values.get("batch_size")
    size, microbatches = values.get("image_size"), values.get("accumulate") or 1
    known = [f"batch {batch}" if batch else "the batch", f"images of {size} px" if size else "the images"]
    indivisible = batch is not None and batch // (2 * microbatches) < 2
    again = f"--batch-size {max(2, batch // 2)}" if indivisible else f"--accumulate {2 * microbatches}"
    again = "--cache ram" if values.get("cache") == "device" else again
    return UsageError(
        f"Out of memory: {' and '.join(known)} did not fit with {values.get('arch')} (--accumulate {microbatches}).",
        "To save memory, compute the batch in more micro-batches, or reduce --batch-size or --image-size.",
        f"Try: lwcl {shlex.join(arguments)} {again}",
    )
