"""`get_jackpot_model`: score adapters on a model, for a training loop of your own."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from timm_jackpot.adapter import ScoreMask, detach, merge
from timm_jackpot.artifact import Encoding, Extra, ExtrasDtype, Jackpot, save_pretrained
from timm_jackpot.base import (
    Base,
    classifier_parameters,
    norm_affine,
    norm_layers,
    norm_statistics,
    recognize_base,
    shared_copy,
    state_ids,
)
from timm_jackpot.criteria import criterion
from timm_jackpot.errors import BaseError, ConfigError, TrainingError
from timm_jackpot.hub import push_to_hub
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import Budget, Role, ScoreTraining, Start, find_maskable, trained_parameters
from timm_jackpot.own_loop.config import JackpotConfig


def get_jackpot_model(model: nn.Module | Base, config: JackpotConfig | None = None) -> TrainableJackpot:
    """Put score adapters on a pre-trained model, in place; its weights are frozen.

    Args:
        model: a timm or torchvision model, or a base from `load_base` or `base_from_module`. A classifier that you
            replaced is trained and stored with the mask.

    Raises:
        BaseError: if the model has no weights to mask, or already carries masks.
        ConfigError: for settings that do not fit the model.
    """
    module = model.model if isinstance(model, Base) else model
    if any(isinstance(part, ScoreMask) for part in module.modules()):
        raise BaseError(
            "the model already carries masks: go on with that one, or take them off with merge_and_unload()"
        )
    return TrainableJackpot(model if isinstance(model, Base) else recognize_base(model), config or JackpotConfig())


class TrainableJackpot(nn.Module):
    """A model whose scores are trained and whose weights are frozen. After each `optimizer.step()`, call `step()`.

    Its parameters that require gradients are the scores and, if there are any, a new head and norms.
    """

    step_count: Tensor

    def __init__(self, base: Base, config: JackpotConfig) -> None:
        super().__init__()
        config.check_for(base)
        self._base, self._config = base, config
        self.model = base.model.requires_grad_(False)
        data = resolve_model_data_config(self.model)
        self._maskable = find_maskable(config, base, data["input_size"], allocation=config.allocation)
        if _head_was_replaced(base):
            config = config.model_copy(update={"train_head": True})
        trained = trained_parameters(base, self._maskable.weights, config)
        if len(config.class_names) not in (0, base.ref.num_classes):
            raise ConfigError(
                f"class_names has {len(config.class_names)} names, but the model has {base.ref.num_classes} classes"
            )
        parameters = dict(self.model.named_parameters())
        for name in trained:
            parameters[name].requires_grad_(True)
        scores = criterion(config.criterion).scores(
            self._maskable.weights, self.model, batches=list, input_size=data["input_size"], seed=config.seed, kept=dict
        )
        budget = Budget.of(config, steps=config.steps, seed=config.seed)
        start = Start.of(scores, self._maskable, budget)
        self._training = ScoreTraining(self.model, start, config, steps=config.steps)
        self._merged, self._steps, self._seen = False, 0, self._score_changes()
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_resume)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward under the present masks.

        Raises:
            TrainingError: in training mode, if the optimizer changed the scores and `step()` was not called after it.
        """
        if self.training and not self._merged and not torch.compiler.is_compiling():
            tensor, changes = self._seen
            now = self._score_changes()
            if now[0] == tensor and now[1] != changes:  # another tensor: of a copy, or moved to another device
                raise TrainingError("the scores changed without model.step(): call it once after each optimizer.step()")
        return self.model(*args, **kwargs)

    def step(self) -> None:
        """Advance the sparsity schedule by one step, and recompute the thresholds when they are due.

        Raises:
            BaseError: after `merge_and_unload`.
        """
        self._check_not_merged()
        self._steps += 1
        self.step_count.fill_(self._steps)
        self._training.before_step(self._steps)
        self._seen = self._score_changes()

    def train(self, mode: bool = True) -> TrainableJackpot:
        """As any module's; going into eval mode recomputes the thresholds, so that what is evaluated is exact."""
        super().train(mode)
        if not mode and not self._merged:
            self._training.resume_after(self._steps)
        if self._config.freeze_norm_statistics:
            for _, layer in norm_layers(self.model):
                layer.eval()
        return self

    def scores(self) -> list[nn.Parameter]:
        """The scores of each masked layer, for `equalise_gradients`, or for parameter groups of your own."""
        return self._training.adapter.scores()

    def masks(self) -> MaskSet:
        """The masks that the present scores give at the final sparsity.

        Raises:
            BaseError: after `merge_and_unload`.
            TrainingError: if a score is NaN.
        """
        self._check_not_merged()
        if any(map(isnan, self._training.adapter.score_sums())):
            raise TrainingError("the scores have become NaN: lower the learning rate")
        return self._training.final_masks()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained, as PEFT does; each masked weight has a score beside it."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        everything = sum(p.numel() for p in self.parameters())
        print(
            f"trainable params: {trainable:,d} || all params: {everything:,d} || "
            f"trainable%: {100 * trainable / everything:.4f}"
        )

    def jackpot(self) -> Jackpot:
        """Base, masks, and every other tensor that changed: norm statistics, norms, the head.

        Raises:
            BaseError: if another tensor of the base changed, which no artifact can hold.
        """
        masks = self.masks()
        plain = shared_copy(self.model)
        detach(plain)
        state = plain.state_dict()
        ids = state_ids(state)
        changed = [name for name, identity in ids.items() if identity != self._base.tensors[name]]
        roles: dict[str, Role] = dict.fromkeys(norm_statistics(plain), "norm_statistics")
        roles |= dict.fromkeys(norm_affine(plain), "norm_affine")
        head = classifier_parameters(plain)
        roles |= dict.fromkeys(head, "head")
        wrong = next((name for name in changed if name not in roles), None)
        if wrong is not None:
            raise BaseError(f"{wrong} has changed: a jackpot trains scores and leaves the weights of its base alone")
        stored = [name for name in state if name in changed or (name in head and self._base.new_head)]
        return Jackpot(
            base=replace(self._base, model=plain),
            maskable=self._maskable,
            masks=masks,
            extras={name: Extra(roles[name], state[name].detach().cpu().clone()) for name in stored},  # pyright: ignore
            sparsity=str(self._config.sparsity),
            allocation=self._config.allocation,
            data=resolve_model_data_config(plain),
            labels=self._config.class_names or None if any(name in head for name in stored) else None,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        encoding: Encoding = "packed",
        extras_dtype: ExtrasDtype = "float32",
        overwrite: bool = False,
    ) -> Path:
        """Save the masks and what else changed as an artifact, which `from_pretrained` loads.

        This model keeps its float32 values; with another `extras_dtype`, measure the one that you load.

        Args and errors: as `timm_jackpot.save_pretrained`; BaseError as `jackpot`.
        """
        return save_pretrained(
            self.jackpot(), folder, encoding=encoding, extras_dtype=extras_dtype, overwrite=overwrite
        )

    def push_to_hub(self, repo_id: str, *, extras_dtype: ExtrasDtype = "float32", **kwargs: Any) -> dict[str, Any]:
        """Publish the artifact on the Hugging Face Hub.

        Args and errors: as `timm_jackpot.push_to_hub`, and `extras_dtype` as `save_pretrained`; BaseError as `jackpot`.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "jackpot", extras_dtype=extras_dtype)
            return push_to_hub(folder, repo_id, **kwargs)

    def merge_and_unload(self) -> nn.Module:
        """The plain model, removed weights zero. Save before: this wrapper has no scores any more.

        Raises:
            BaseError, TrainingError: as `masks`.
        """
        masks = self.masks()
        self._merged = True
        detach(self.model)
        return merge(self.model, masks)

    def _score_changes(self) -> tuple[int, int]:
        """Which tensor the first scores are, and how often it was changed in place."""
        first = self._training.adapter.scores()[0]
        return id(first), first._version

    def _check_not_merged(self) -> None:
        if self._merged:
            raise BaseError("the masks were merged into the model: save and train before merge_and_unload()")


def _resume(model: TrainableJackpot, *_: object) -> None:
    """Continue after the steps that a state dict counts."""
    model._steps = int(model.step_count)
    model._training.resume_after(model._steps)
    model._seen = model._score_changes()


def _head_was_replaced(base: Base) -> bool:
    """Whether the classifier has other values than the base's checkpoint."""
    head = {name: parameter.detach() for name, parameter in classifier_parameters(base.model).items()}
    return any(identity != base.tensors.get(name) for name, identity in state_ids(head).items())
