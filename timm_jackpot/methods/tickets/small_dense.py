from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from timm_jackpot.base import BaseRef, random_network
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.sparse.run import train_sparse
from timm_jackpot.methods.start import start_from
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import HeadFlags

_WIDEST, _HALVINGS = 4.0, 16


@register_method("small_dense", family="ticket", paper="arXiv:2107.00166", finds_jackpots=False)
def small_dense(task: Task, budget: Budget, settings: HeadFlags) -> Outcome:
    """SDT: a dense network of the same depth with about as many weights as a ticket, trained from random ones."""
    watch = Stopwatch()
    kept = sum(start_from("magnitude", task, budget).kept.values())
    width = narrow_width(task.base.ref, [*task.maskable.weights], kept)
    model = random_network(task.base.ref, width=width).to(task.accelerator.device).requires_grad_(False)
    base = replace(task.base, model=model.eval())
    small = replace(task, base=base, maskable=replace(task.maskable, weights={}), pretrained=False)
    _, trained = train_sparse(small, budget, settings, {})
    phases = (Phase("training", budget.steps),)
    return Outcome(None, {}, budget.steps, watch.seconds, phases=phases, network=trained.eval())


def narrow_width(ref: BaseRef, weights: Sequence[str], kept: int) -> float:
    """The largest factor of an architecture's channels at which it has at most `kept` weights.

    Args:
        weights: names of the weights that count, those that a ticket would mask.

    Raises:
        ConfigError: if the architecture has no such factor.
    """
    low, high = 0.0, _WIDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _count(ref, weights, middle) <= kept else (low, middle)
    return low


def _count(ref: BaseRef, weights: Sequence[str], width: float) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            shapes = dict(random_network(ref, width=width).named_parameters())
        except BaseError as error:
            raise ConfigError(
                f"{ref.architecture} cannot be made narrower: small_dense takes architectures with the argument width, "
                "such as cifar_resnet20 and cifar_vgg19_bn"
            ) from error
    return sum(shapes[name].numel() for name in weights)
