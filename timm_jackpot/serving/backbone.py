"""`Backbone`: the unchanged base, a working copy that adapters are written into, and checks that adapters fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from timm_jackpot.artifact import Artifact, Config, check_base, described_by
from timm_jackpot.base import Base, SkipInit, copy_with_head, create_timm_model, shared_copy, tensor_id, with_head
from timm_jackpot.errors import BaseMismatchError, ServingError
from timm_jackpot.masks import pack, unpack


@dataclass(frozen=True)
class StoredAdapter:
    """A jackpot in CPU memory: one bit per masked weight, and the other tensors that changed."""

    packed: dict[str, Tensor]  # U8 [ceil(n/8)], by weight name
    extras: dict[str, Tensor]  # F32, by state-dict name
    num_classes: int
    described: dict[str, Any]  # changes to `pretrained_cfg`: data config, class names


class Backbone:
    """The base, which is never written to, and a working copy that adapters are written into.

    Args:
        base: the backbone takes ownership; do not change its model afterwards.
        built: whether it was built from an artifact's config rather than passed in by the caller.
    """

    def __init__(self, base: Base, *, built: bool) -> None:
        self._base, self._built = base, built
        self._model = base.model.eval().requires_grad_(False)
        self._dense = StoredAdapter({}, {}, int(getattr(base.model, "num_classes", base.ref.num_classes)), {})
        self._working = copy.deepcopy(self._model)
        # By number of classes: the base, and the model that users see and may hook. All but the heads share tensors.
        self._models = {self._dense.num_classes: (self._model, shared_copy(self._working))}

    @torch.no_grad()
    @torch.inference_mode(False)
    def write(self, adapter: StoredAdapter | None) -> nn.Module:
        """Write an adapter into the working copy, whatever it held before; None restores the base.

        Weights are w_base ⊙ mask, multiplied as in `merge`: removed negative weights become −0.0. Memory is
        allocated first, so that running out of it leaves everything as it was.
        """
        adapter = adapter or self._dense
        n = adapter.num_classes
        if n not in self._models:
            like = next(self._model.parameters())
            self._models[n] = copy_with_head(self._model, n, like=like), copy_with_head(self._working, n, like=like)
        dense, model = self._models[n]
        base, state = dense.state_dict(), model.state_dict()
        masks = {name: unpack(bits, base[name].shape).to(base[name].device) for name, bits in adapter.packed.items()}
        for name in state.keys() - masks.keys() - adapter.extras.keys():
            state[name].copy_(base[name])
        for name, mask in masks.items():  # after the copies: one of them may be the same weight under another name
            # The mask is converted in place: a product of two dtypes would convert it into a new tensor.
            torch.mul(state[name].copy_(mask), base[name], out=state[name])
        for name, tensor in adapter.extras.items():
            state[name].copy_(tensor)
        described: Mapping[str, Any] = getattr(dense, "pretrained_cfg", None) or {}
        model.pretrained_cfg = {**described, **adapter.described}  # pyright: ignore[reportArgumentType]
        return model

    def keep_heads(self, of: Collection[int]) -> None:
        """Drop the heads whose number of classes is not in `of`."""
        self._models = {n: m for n, m in self._models.items() if n in of or n == self._dense.num_classes}

    @torch.no_grad()
    @torch.inference_mode(False)
    def convert(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move or convert the base and the working copy; a failure changes nothing."""
        models = [model for pair in self._models.values() for model in pair]
        tensors = {id(t): t for model in models for t in (*model.parameters(), *model.buffers())}.values()
        for tensor, converted in [(tensor, fn(tensor)) for tensor in tensors]:
            tensor.data = converted

    def store(self, artifact: Artifact) -> StoredAdapter:
        """Convert a checked artifact to the form kept in memory.

        Raises:
            ServingError: if its masks are compact and the base was converted: decoding needs the weights as loaded.
        """
        config = artifact.config
        if config.encoding == "compact":
            first = config.layers[0].name
            if tensor_id(self._model.state_dict()[first]) != self._base.tensors[first]:
                raise ServingError(
                    "its masks are compact, and read beside the base as it was loaded: load it before .to()"
                )
        packed = {name: pack(mask) for name, mask in artifact.masks_on(self._base).items()}
        return StoredAdapter(packed, dict(artifact.extras), config.base.num_classes, described_by(config))

    def check(self, config: Config) -> None:
        """Check that an artifact was made on this base.

        Raises:
            BaseMismatchError: if architecture, arguments or weights differ; names the first difference.
            ArtifactError: if its tensors do not fit.
        """
        ours, theirs = self._base.ref, config.base
        for what in ("architecture", "in_chans", "model_kwargs", "img_size"):
            found, said = (_acting(getattr(ref, what)) for ref in (ours, theirs))
            if found != said and (what != "img_size" or self._is_built_for_one_image_size()):
                raise BaseMismatchError(f"its base {theirs.name} has {what} {said}, the base in memory {found}")
        new_head = config.head is not None and theirs.num_classes != self._dense.num_classes
        check_base(config, with_head(self._base, theirs.num_classes) if new_head else self._base, built=self._built)

    def _is_built_for_one_image_size(self) -> bool:
        ref = self._base.ref
        config: Mapping[str, Any] = getattr(self._model, "pretrained_cfg", None) or {}
        requested: dict[str, Any] = {"img_size": ref.img_size or config["input_size"][-1]}
        with torch.random.fork_rng(devices=[]), torch.device("meta"), SkipInit():
            create_timm_model(ref.architecture, requested, pretrained=False, **ref.model_kwargs)
        return "img_size" in requested  # removed if the architecture takes no img_size


def _acting(value: Any) -> Any:
    """Drop the model arguments that only matter in training; return anything else unchanged."""
    if not isinstance(value, dict):
        return value
    return {key: scalar for key, scalar in value.items() if not key.endswith("_rate") and key != "bn_momentum"}
