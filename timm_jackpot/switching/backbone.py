"""`Backbone`: the base as it came, and what may be put on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from timm_jackpot.artifact import Artifact, Config, check_base
from timm_jackpot.base import Base, SkipInit, create_timm_model, state_ids, tensor_id
from timm_jackpot.errors import BaseMismatchError, SwitchError
from timm_jackpot.masks import MaskSet
from timm_jackpot.switching.held import Held
from timm_jackpot.switching.new_head import reset_head


class Backbone:
    """The base copy, which nothing writes to.

    Args:
        base: taken over; its model is not changed any more.
        built: whether it was built from what an artifact says, not handed over by its author.
    """

    def __init__(self, base: Base, *, built: bool) -> None:
        self.model = base.model.eval().requires_grad_(False)
        self.dense = Held({}, {}, int(getattr(base.model, "num_classes", base.ref.num_classes)), {})
        self._base, self._built = base, built

    def check(self, config: Config) -> None:
        """Refuse an artifact that was not made on this base.

        Raises:
            BaseMismatchError: another architecture, other arguments, or other weights; names the first difference.
            ArtifactError: its tensors do not fit.
        """
        ours, theirs = self._base.ref, config.base
        for what in ("architecture", "in_chans", "model_kwargs"):
            found, said = (_acting(getattr(ref, what)) for ref in (ours, theirs))
            if found != said:
                raise BaseMismatchError(f"its base {theirs.name} has {what} {said}, the base in memory {found}")
        if ours.img_size != theirs.img_size and self._is_built_for_one_image_size():
            raise BaseMismatchError(
                f"its base {theirs.name} has img_size {theirs.img_size}, the base in memory {ours.img_size}"
            )
        check_base(config, self._with_classes(config.base.num_classes if config.head else None), built=self._built)

    def masks_of(self, artifact: Artifact) -> MaskSet:
        """The masks of an artifact that was checked.

        Raises:
            SwitchError: if they are compact, and the base was converted: they are coded on the weights as loaded.
        """
        if artifact.config.encoding == "compact":
            first = artifact.config.layers[0].name
            if tensor_id(self.model.state_dict()[first]) != self._base.tensors[first]:
                raise SwitchError(
                    "its masks are compact, and read beside the base as it was loaded: load it before .to()"
                )
        return artifact.masks_on(self._base)

    def _with_classes(self, num_classes: int | None) -> Base:
        """The base as `load_base` gives it with a new head; all its other tensors are this one's own."""
        base = self._base
        if num_classes is None or num_classes == self.dense.num_classes:
            return base
        mine = self.model.state_dict(keep_vars=True)
        model = copy.deepcopy(self.model, {id(tensor): tensor for tensor in mine.values()})
        reset_head(model, num_classes)
        state = model.state_dict(keep_vars=True)
        new = {name: tensor for name, tensor in state.items() if tensor is not mine.get(name)}
        # Of the tensors as they were loaded: they may have moved to another device or dtype since.
        ids = {name: identity for name, identity in base.tensors.items() if name in state and name not in new}
        adapted = [
            n for n in state if (n not in mine or state[n].shape != mine[n].shape if n in new else n in base.adapted)
        ]
        ref = base.ref.model_copy(update={"num_classes": num_classes})
        return Base(model, ref, {**ids, **state_ids(new)}, tuple(adapted))

    def _is_built_for_one_image_size(self) -> bool:
        ref = self._base.ref
        config: Mapping[str, Any] = getattr(self.model, "pretrained_cfg", None) or {}
        requested: dict[str, Any] = {"img_size": ref.img_size or config["input_size"][-1]}
        with torch.random.fork_rng(devices=[]), torch.device("meta"), SkipInit():
            create_timm_model(ref.architecture, requested, pretrained=False, **ref.model_kwargs)
        return "img_size" in requested  # where the architecture takes none, it was taken out


def _acting(value: Any) -> Any:
    """Of model arguments those that act outside training too; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {key: scalar for key, scalar in value.items() if not key.endswith("_rate") and key != "bn_momentum"}
