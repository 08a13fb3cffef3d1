"""`WorkingCopy`: the model that answers, and what it wears."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import Any

import torch

from timm_jackpot.masks import unpack
from timm_jackpot.switching.backbone import Backbone
from timm_jackpot.switching.held import Held
from timm_jackpot.switching.new_head import NewHead


class WorkingCopy:
    """A copy of the base that a jackpot is written into, and taken out of again; `model` stays the same object."""

    def __init__(self, backbone: Backbone) -> None:
        self.model = copy.deepcopy(backbone.model)
        self._backbone = backbone
        self._worn = backbone.dense
        self._new_head: NewHead | None = None

    @torch.no_grad()
    @torch.inference_mode(False)
    def wear(self, new: Held) -> None:
        """Write what differs, layer by layer. Where that fails half-way (no memory, ^C), the base is left, dense."""
        old, self._worn = self._worn, self._backbone.dense
        try:
            self._take_back({*old.packed, *old.extras} - {*new.packed})
            self._put_on(new)
        except BaseException:
            self._take_back({*old.packed, *old.extras, *new.packed, *new.extras})
            self._put_on(self._backbone.dense)
            raise
        self._worn = new

    def _take_back(self, names: Set[str]) -> None:
        """The base's own head again, and its own tensors of these names."""
        if self._new_head:
            self._new_head.take_off()
            self._new_head = None
        base, state = self._backbone.model.state_dict(), self.model.state_dict()
        for name in names & base.keys():  # a head may have had a tensor that the base has not
            state[name].copy_(base[name])

    def _put_on(self, new: Held) -> None:
        """w = w_base ⊙ mask, multiplied as `merge` does it (removed negative weights are −0.0); and what else moved."""
        if new.num_classes != self._backbone.dense.num_classes:
            self._new_head = NewHead(self.model, new.num_classes)
        base, state = self._backbone.model.state_dict(), self.model.state_dict()
        for name, packed in new.packed.items():
            weight = base[name]
            torch.mul(weight, unpack(packed, weight.shape).to(weight.device), out=state[name])
        for name, tensor in new.extras.items():
            state[name].copy_(tensor)
        described: Mapping[str, Any] = getattr(self._backbone.model, "pretrained_cfg", None) or {}
        self.model.pretrained_cfg = {**described, **new.data}  # pyright: ignore[reportArgumentType]
