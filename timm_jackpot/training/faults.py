"""Explain errors in a training step that are not bugs, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from timm_jackpot.errors import DataError, TrainingError
from timm_jackpot.runtime.processes import explain_lost_process


@contextmanager
def explained(step: int) -> Iterator[None]:
    """Turn torch's errors in a step into ours.

    Raises:
        TrainingError: if memory ran out, another process was lost, or a batch is too small for batch norm.
        DataError: if a data worker died.
    """
    try:
        with explain_lost_process(f" at step {step}"), one_image_explained():
            yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(step) from error
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" in text:
            raise DataError(
                f"a data worker died at step {step}, perhaps out of memory: lower --workers or --batch-size"
            ) from error
        if "not enough memory" in text or "can't allocate memory" in text:
            raise _out_of_memory(step) from error
        raise


@contextmanager
def one_image_explained() -> Iterator[None]:
    """Explain the error of batch norm for a single image.

    Raises:
        TrainingError: if a batch is too small for batch norm.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" in str(error):  # torch's batch norm
            raise TrainingError("batch norm needs more than one image per process: raise --batch-size") from error
        raise


def _out_of_memory(step: int) -> TrainingError:
    return TrainingError(
        f"out of memory at step {step}: lower --batch-size (and raise --grad-accum-steps to match), or try "
        "--grad-checkpointing or mixed precision"
    )
