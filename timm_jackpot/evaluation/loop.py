from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot.data import ImageSource
from timm_jackpot.runtime.processes import shard_of
from timm_jackpot.runtime.progress import with_progress

NONE_READABLE = "none of the evaluation images can be read: check --data-dir, or name another --test-split"


def logits_and_labels(
    model: nn.Module, source: ImageSource, batch_size: int, accelerator: Accelerator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [b, classes] and labels [b] of the readable images of this rank's shard of a split, in eval mode.

    The training mode is restored at the end.
    """
    shard = shard_of(accelerator)
    count = ceil(len(source) / (batch_size * shard.count))
    batches = source.eval_batches(batch_size=batch_size, shard=shard)
    with eval_mode(model):
        for images, labels in with_progress(batches, count, "evaluation", accelerator):
            with accelerator.autocast():
                logits = model(images)
            yield logits, labels


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and each of its modules back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
