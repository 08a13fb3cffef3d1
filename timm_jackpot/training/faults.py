"""What can go wrong in a step that is nobody's bug, as one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from timm_jackpot.errors import DataError, TrainingError
from timm_jackpot.runtime.processes import explain_lost_process


@contextmanager
def explained(step: int) -> Iterator[None]:
    """Turn torch's own errors in a step into ours.

    Raises:
        TrainingError: memory ran out, another process was lost, a batch too small for batch norm.
        DataError: a data worker died.
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
                f"a data worker died at step {step}, perhaps for want of memory: lower --workers or --batch-size"
            ) from error
        if "not enough memory" in text or "can't allocate memory" in text:
            raise _out_of_memory(step) from error
        raise


@contextmanager
def one_image_explained() -> Iterator[None]:
    """
    Raises:
        TrainingError: a batch too small for batch norm.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" in str(error):  # torch's batch norm
            raise TrainingError("batch norm needs more than one image per process: raise --batch-size") from error
        raise


def _out_of_memory(step: int) -> TrainingError:
    return TrainingError(
        f"out of memory at step {step}: lower --batch-size (and raise --grad-accum-steps as much), or try "
        "--grad-checkpointing or mixed precision"
    )
