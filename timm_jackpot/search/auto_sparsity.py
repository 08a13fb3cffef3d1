"""`--sparsity auto`: the best of a few sparsities on held-out images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.methods import Budget, Task, build_network, method
from timm_jackpot.runtime.processes import say
from timm_jackpot.search.config import AUTO, RunConfig
from timm_jackpot.training import Record

SPARSITIES = ("0.3", "0.5", "0.7", "0.9")
_SHARE = 8  # each trial takes an eighth of the run's steps, so that half of them are left for the run itself


def choose_sparsity(task: Task, budget: Budget, config: RunConfig) -> Budget:
    """The budget with a sparsity, and with the steps that are left, if the settings leave the choice to us.

    A short run at each sparsity is judged on the held-out images; the sparser of equals wins. A resumed run goes on
    with the choice in its record.

    Raises:
        ConfigError: if no images are held out, or the run is too short to try.
    """
    if budget.sparsity != AUTO:
        return budget
    made = task.record.last("sparsity_choice")
    if not made:
        with task.state.before_first_step() if task.state else nullcontext():
            made = _try_all(task, budget, config)
        task.record.write("sparsity_choice", **made)
    return replace(budget, sparsity=made["sparsity"], steps=made["steps"])


def _try_all(task: Task, budget: Budget, config: RunConfig) -> dict[str, Any]:
    if task.data.val is None:
        raise ConfigError("--sparsity auto needs held-out images: set --val-fraction or --val-split")
    steps = budget.steps // _SHARE
    if steps == 0:
        raise ConfigError(f"--sparsity auto needs at least {_SHARE} steps, not {budget.steps}: give more --steps")
    alone = replace(task, record=Record(), state=None)
    top1: dict[str, float] = {}
    for sparsity in SPARSITIES:
        outcome = method(config.method).run(alone, replace(budget, sparsity=sparsity, steps=steps), config)
        accuracy = evaluate_accuracy(
            build_network(task, outcome), task.data.val, batch_size=task.batch_size, accelerator=task.accelerator
        )
        top1[sparsity] = accuracy.top1
    best = max(reversed(SPARSITIES), key=lambda sparsity: top1[sparsity])  # the first of equals
    tried = ", ".join(f"{sparsity}: {value:.1f}" for sparsity, value in top1.items())
    say(f"note: sparsity {best}, by validation top-1 after {steps} steps at each ({tried})", task.accelerator)
    return {"sparsity": best, "steps": budget.steps - steps * len(SPARSITIES), "trial_steps": steps, "top1": top1}
