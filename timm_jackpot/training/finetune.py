"""Fine-tune the kept weights of a jackpot (Eq. 9). The result is a dense checkpoint with zeros, not a jackpot."""

from __future__ import annotations

from typing import Any, ClassVar

from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn

from timm_jackpot.adapter import zero_fractions
from timm_jackpot.artifact import ArtifactFlags, apply_artifact, open_artifact
from timm_jackpot.data import default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import BaseError
from timm_jackpot.evaluation import evaluate_accuracy
from timm_jackpot.masks import MaskSet
from timm_jackpot.runtime.processes import say, shard_of
from timm_jackpot.schema import Command
from timm_jackpot.training.dense import DenseFlags, DenseRun, finished_summary, open_dense_run
from timm_jackpot.training.flags import prepare_model, total_steps
from timm_jackpot.training.run_state import RunState


class FinetuneConfig(ArtifactFlags, DenseFlags):
    """Train the weights that a jackpot keeps, and save a dense checkpoint with zeros in it."""

    command: ClassVar[Command | None] = Command(
        "finetune",
        (
            "my_jackpot --output tuned",
            "my_jackpot --data-dir flowers --epochs 30 --lr 0.005 --output tuned",
            "my_jackpot --recipe cifar10_resnet32x2_finetune --output tuned",
        ),
        basic=(
            *("artifact", "base_checkpoint", "dataset", "data_dir", "batch_size"),
            *("steps", "epochs", "lr", "weight_decay", "seed", "output", "overwrite", "resume"),
        ),
        recipes=True,
    )

    lr: float = Field(default=0.01, ge=1e-12, le=1e6)
    """Peak learning rate."""


def finetune_jackpot(config: FinetuneConfig) -> dict[str, Any]:
    """Train all parameters except removed weights, evaluate once on the test split, and save.

    Returns:
        The summary that the verb prints: top-1 before and after tuning, and the remaining sparsity.

    Raises:
        RunInterrupted: if a signal stopped the run; it can be resumed.
        JackpotError: if something is wrong with artifact, data or flags; before any training.
    """
    if (summary := finished_summary(config)) is not None:
        return summary
    with open_dense_run(config) as (accelerator, state):
        return _finetune(config, accelerator, state)


def _finetune(config: FinetuneConfig, accelerator: Accelerator, state: RunState) -> dict[str, Any]:
    shard = shard_of(accelerator)

    def steps_of(images: int) -> int:
        return total_steps(config, steps_per_epoch(images, config.batch_size, shard), default_epochs=30)

    with accelerator.main_process_first():
        artifact, base = open_artifact(
            config.artifact,
            base_checkpoint=config.base_checkpoint,
            revision=config.revision,
            trust_base=config.trust_base,
        )
        masks = artifact.masks_on(base)
        model = apply_artifact(base.model, artifact, masks)
        say(default_data_notice(config, model, steps=steps_of), accelerator)
        data = open_data(config, model, device=accelerator.device)
    steps = steps_of(len(data.train))
    subject = f"finetune: {config.artifact}, a jackpot of {base.ref.name}"
    state.begin(subject, data, config, steps, base=base.ref.digest, masks=masks.hash())
    prepare_model(config, model, accelerator.device)
    keep_zeros(model, masks)
    before = evaluate_accuracy(model, data.test, batch_size=config.batch_size, accelerator=accelerator)

    def summarize(figures: dict[str, Any]) -> dict[str, Any]:
        fractions = zero_fractions(model)
        return {
            "artifact": config.artifact,
            "jackpot_top1": before.top1,
            **figures,
            "sparsity": sum(fractions[n] * mask.numel() for n, mask in masks.items()) / masks.total,
        }

    return DenseRun("finetune", model, data, config, steps, state, accelerator).train_and_save(summarize)


def keep_zeros(model: nn.Module, masks: MaskSet) -> None:
    """Zero the gradients of the removed weights of a merged model, so that no optimizer changes them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise BaseError(f"the model has no parameter {name!r} to keep zeros in")
        on_device = mask.to(parameters[name].device)

        def only_kept(gradient: Tensor, kept: Tensor = on_device) -> Tensor:
            return gradient * kept

        parameters[name].register_hook(only_kept)
