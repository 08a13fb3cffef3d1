"""Mask searches: scores are trained, weights are not. Ours, the paper's, and ours in random weights."""

from __future__ import annotations

from timm_jackpot.base import working_copy
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.budget import Budget
from timm_jackpot.methods.find import find_masks
from timm_jackpot.methods.fresh import with_open_branches, with_random_weights, with_these_weights
from timm_jackpot.methods.registry import register_method
from timm_jackpot.methods.search_settings import PAPER, SearchSettings
from timm_jackpot.methods.start import start_from, starved_notice
from timm_jackpot.methods.task import Outcome, Phase, Stopwatch, Task
from timm_jackpot.methods.train import affine_of, changed_tensors, trained_parameters, unfreeze, warm_head
from timm_jackpot.runtime.processes import say


@register_method("search", family="mask search", paper="after arXiv:2104.08700")
def search(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """Train a score for each maskable weight and keep the largest: the best search we know."""
    watch = Stopwatch()
    start = start_from(settings.criterion, task, budget, batches=settings.criterion_batches)
    if budget.allocation == "global":
        say(starved_notice(start), task.accelerator)
    roles = trained_parameters(task.base, task.maskable.weights, settings)
    silenced = affine_of(start.filters)
    model = working_copy(task.base.model, own=roles.keys() | silenced.keys())
    trained, head = unfreeze(model, roles)
    steps = warm_head(model, head, task, budget, settings)
    distill = settings.distill_weight > 0 and task.can_teach
    masks = find_masks(
        model,
        start,
        task,
        settings,
        steps=steps,
        seed=budget.seed,
        trained=trained,
        head=head,
        teacher=working_copy(task.base.model).requires_grad_(False).eval() if distill else None,
    )
    changed = changed_tensors(model, silenced | roles, statistics=not settings.freeze_norm_statistics)
    phases = _phases(budget, settings, masks, teacher=distill)
    return Outcome(masks, changed, budget.steps, watch.seconds, start.masks, phases=phases)


@register_method("paper", family="mask search", paper="arXiv:2104.08700", defaults=PAPER)
def paper(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """The search of the Lottery Jackpots paper: two-level start, one global threshold, cross-entropy only."""
    return search(task, budget, settings)


@register_method("low_flip", family="mask search", paper="arXiv:2004.14129", defaults={"sparsity": "0.01"})
def low_flip(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """The search at 1 % sparsity: an adapter that removes few weights, and is small when it is stored compact."""
    return search(task, budget, settings)


@register_method("random_weights", family="mask search", paper="arXiv:1911.13299", finds_jackpots=False)
def random_weights(task: Task, budget: Budget, settings: SearchSettings) -> Outcome:
    """The search in random weights of the base's architecture: shows what pre-training is worth.

    `criterion` random and `start_scale` 0.577 start it from uniform scores in [0, 1), as in Sec. 3.2 of
    arXiv:2104.08700.
    """
    random_task = with_open_branches(with_random_weights(task))
    return with_these_weights(search(random_task, budget, settings), random_task)


def _phases(budget: Budget, settings: SearchSettings, masks: MaskSet, *, teacher: bool) -> tuple[Phase, ...]:
    """A quarter of the ramp counts as dense: the mean of the cubic ramp is three quarters."""
    dense = 0 if settings.schedule == "constant" else round(settings.schedule_fraction * budget.steps / 4)
    sparse = Phase("search", budget.steps - dense, masks.kept_per_layer(), dense_gradients=1.0, teacher=teacher)
    return (Phase("search", dense, teacher=teacher), sparse) if dense else (sparse,)
