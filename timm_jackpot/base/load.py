"""`load_base`: from any timm model name to the pre-trained model and its `BaseRef`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from timm_jackpot.base.build import create_timm_model
from timm_jackpot.base.maskable import classifier_parameters
from timm_jackpot.base.ref import MODEL_KWARGS, BaseRef, Scalar
from timm_jackpot.base.source import Source, classes_of, find_source, pixels_of, recordable_arguments, shapes_in
from timm_jackpot.base.tensors import TensorId, base_digest, tensor_ids
from timm_jackpot.errors import BaseError, BaseMismatchError
from timm_jackpot.schema import fault_of


@dataclass(frozen=True)
class Base:
    """A pre-trained model in eval mode, with its identity and the identities of its tensors."""

    model: nn.Module
    ref: BaseRef
    tensors: dict[str, TensorId]
    adapted: tuple[str, ...]  # tensors that differ from the checkpoint's: new or resampled

    @property
    def new_head(self) -> bool:
        """Whether the classifier is newly initialized."""
        return any(name in self.adapted for name in classifier_parameters(self.model))


def load_base(
    name: str,
    *,
    model_kwargs: Mapping[str, Scalar] | None = None,
    base_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Base:
    """Load a pre-trained base on the CPU, in float32 and eval mode.

    Args:
        name: a timm model name with or without tag (`resnet50.a1_in1k`), `hf-hub:user/repo[@revision]`, or
            `local-dir:folder`.
        model_kwargs: more arguments for the timm model: scalars, with names from `MODEL_KWARGS`.
        base_checkpoint: a .safetensors file with the weights, used instead of the published ones.
        num_classes: if it differs from the checkpoint's, the base gets a new head (seed it with
            `torch.manual_seed`).
        in_chans, img_size: different input channels or image size in pixels; timm adapts stem and embeddings.
        revision: branch, tag or commit of the Hub repo; the resolved commit is recorded.
        token, cache_dir, local_files_only: as in huggingface_hub.

    Raises:
        BaseError: for an unknown model or argument, or if there are no safetensors weights.
        BaseMismatchError: if a tensor of the checkpoint does not fit; names the first one and both shapes.
        HubError: if a download fails.
    """
    kwargs: dict[str, Any] = dict(model_kwargs or {})
    unknown = sorted(set(kwargs) - MODEL_KWARGS)
    if unknown:
        raise BaseError(
            f"model argument {unknown[0]!r} is not supported: it must be one of the scalar arguments in "
            "timm_jackpot.base.ref.MODEL_KWARGS"
        )
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    source = find_source(name, None if base_checkpoint is None else Path(base_checkpoint), revision, hub)
    # Recorded like flags, because whoever loads the artifact may not have this config.
    kwargs = {**recordable_arguments(source), **kwargs}
    img_size = img_size or pixels_of(source)
    changes = {"in_chans": in_chans, "img_size": img_size}
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    overlay: dict[str, Any] = {"file": str(source.weights), "source": "file", "custom_load": False}
    classes = classes_of(source)
    if classes is not None:
        overlay["num_classes"] = classes
    native = {**kwargs, **({} if classes is None else {"num_classes": classes})}
    try:
        model = create_timm_model(source.name, requested, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    except TypeError as error:
        raise BaseError(f"{source.architecture} does not take these arguments: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # untrusted arguments and config: a constructor may raise anything
        raise _explain(source, native, error) from error
    # The checkpoint is loaded in full before the head changes: with a new head, timm would load less strictly.
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
        requested["num_classes"] = num_classes
    model.eval()
    adapted = _adapted(model, source, native) if requested else []
    ids = tensor_ids(model)
    try:
        ref = BaseRef(
            source=source.kind,  # pyright: ignore[reportArgumentType]
            architecture=source.architecture,
            tag=source.tag,
            model_kwargs=kwargs,
            hub_id=source.hub_id,
            revision=source.revision,
            num_classes=int(model.num_classes),  # pyright: ignore[reportArgumentType]
            in_chans=in_chans or int(model.pretrained_cfg["input_size"][0]),  # pyright: ignore
            img_size=img_size,
            digest=base_digest(ids, adapted=adapted),
        )
    except ValidationError as error:
        raise BaseError(f"an artifact cannot describe this base, {fault_of(error)}") from error
    return Base(model, ref, ids, tuple(adapted))


def _adapted(model: nn.Module, source: Source, native: Mapping[str, Any]) -> list[str]:
    """Tensors that were newly initialized or resampled: those whose shape differs from the checkpoint's.

    For tensors that timm renames while loading, the shape is compared with that of the default architecture.
    """
    usual = timm.create_model(source.name, pretrained=False, **native).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in usual.items()} | shapes_in(source.weights)
    return [name for name, tensor in model.state_dict().items() if shapes.get(name) != tuple(tensor.shape)]


def _explain(source: Source, arguments: Mapping[str, Any], error: Exception) -> BaseError:
    """Explain a failed load in one sentence that names the first tensor that differs."""
    try:
        found = shapes_in(source.weights)
    except SafetensorError as damage:
        return BaseError(f"{source.weights.name} is not a readable safetensors file: {damage}")
    try:
        with torch.random.fork_rng(devices=[]):
            expected = timm.create_model(source.name, pretrained=False, **arguments).state_dict()
    except Exception as build_error:
        return BaseError(f"{source.architecture} cannot be built: {build_error or type(build_error).__name__}")
    what = f"{source.weights.name} does not fit {source.architecture}"
    for name, tensor in expected.items():
        if name not in found and not name.endswith("num_batches_tracked"):
            return BaseMismatchError(f"{what}: it has no tensor {name} (expected shape {tuple(tensor.shape)})")
        if name in found and found[name] != tuple(tensor.shape):
            return BaseMismatchError(f"{what}: {name} has shape {found[name]}, expected {tuple(tensor.shape)}")
    extra = next((name for name in found if name not in expected), None)
    if extra:
        return BaseMismatchError(f"{what}: its tensor {extra} is not in the model")
    return BaseError(f"{source.architecture} cannot be loaded: {error}")
