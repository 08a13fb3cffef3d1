"""`from_pretrained`: artefact → base (digest checked) → plain timm module with zeros in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn

from timm_jackpot.adapter import merge
from timm_jackpot.artefact.locate import locate_artefact
from timm_jackpot.artefact.read import Artefact, read_artefact
from timm_jackpot.artefact.schema import Config
from timm_jackpot.base import Base, base_digest, load_base, maskable_weights, tensor_ids
from timm_jackpot.errors import ArtefactError, BaseMismatchError


def from_pretrained(
    name: str | Path,
    *,
    base_checkpoint: str | Path | None = None,
    base: nn.Module | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    trust_base: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Load a jackpot: the plain timm model in eval mode, its removed weights zero.

    `timm.data.resolve_model_data_config(model)` gives the data config that belongs to it.

    Args:
        name: an artefact folder, or the name of a Hub repo (`user/name`).
        base_checkpoint: a .safetensors file with the base's weights, for a base that is not on the Hub.
        base: a module to use as the base instead; it is changed in place and returned.
        revision, token, cache_dir, local_files_only: as in huggingface_hub.
        trust_base: build a base that the artefact names outside timm's own registry.
        device, dtype: where the model goes, and in which float type, after all checks.

    Raises:
        ArtefactError: the artefact is missing, damaged, edited or too new.
        BaseMismatchError: the base found is not the one that the mask was searched in.
        BaseError, HubError: the base cannot be built or fetched.
    """
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    artefact = read_artefact(locate_artefact(name, revision=revision, **hub))
    if base is None:
        loaded = _build_base(artefact.config, base_checkpoint, trust_base, hub)
    else:
        loaded = Base(base, artefact.config.base, tensor_ids(base), tuple(artefact.config.info.get("adapted", ())))
    _check_base(artefact, loaded)
    model = apply_artefact(loaded.model, artefact)
    return model.to(device=device, dtype=dtype).eval()


def transform_of(model: nn.Module) -> Callable[[Any], Tensor]:
    """timm's evaluation transform for a model: PIL image → normalised tensor [c, h, w]."""
    return create_transform(**resolve_model_data_config(model))  # pyright: ignore[reportReturnType]


def apply_artefact(model: nn.Module, artefact: Artefact) -> nn.Module:
    """Write masks, extras and data config into a base that was checked."""
    merge(model, artefact.masks)
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in artefact.extras.items():
            state[name].copy_(tensor)
    if isinstance(getattr(model, "pretrained_cfg", None), dict):
        model.pretrained_cfg = {**model.pretrained_cfg, **artefact.config.data.model_dump()}  # pyright: ignore
    return model


def _build_base(config: Config, checkpoint: str | Path | None, trust_base: bool, hub: dict[str, Any]) -> Base:
    ref = config.base
    if ref.source == "module":
        raise ArtefactError(f"the base {ref.architecture} is a module of its author's own: pass it as base=module")
    if ref.source == "file" and checkpoint is None:
        raise ArtefactError(
            f"the base {ref.name} was loaded from a file: give the same file with --base-checkpoint "
            "(base_checkpoint=… in Python)"
        )
    registered = get_pretrained_cfg(ref.name, allow_unregistered=False) if is_model(ref.architecture) else None
    known = registered is not None and (registered.hf_hub_id or None) == ref.hub_id
    if checkpoint is None and not (known or trust_base or (ref.hub_id or "").startswith("timm/")):
        raise ArtefactError(
            f"the artefact names a base outside timm's own repos ({ref.hub_id}): say trust_base=True to build it"
        )
    name = ref.architecture if checkpoint is not None else ref.name if known else f"hf-hub:{ref.hub_id}@{ref.revision}"
    with torch.random.fork_rng(devices=[]):
        return load_base(
            name,
            model_kwargs=ref.model_kwargs,
            base_checkpoint=checkpoint,
            num_classes=ref.num_classes if config.head else None,
            in_chans=ref.in_chans if config.info.get("adapted") else None,
            img_size=ref.img_size,
            revision=ref.revision,
            **hub,
        )


def _check_base(artefact: Artefact, base: Base) -> None:
    """Names, shapes and values of the base must be those that the artefact was made on."""
    config = artefact.config
    maskable = maskable_weights(base.model, mask_classifier=_masks_classifier(config, base.model))
    shapes = {layer.name: tuple(layer.shape) for layer in config.layers}
    if maskable.shapes != shapes:
        odd = next(n for n in {**shapes, **maskable.shapes} if shapes.get(n) != maskable.shapes.get(n))
        raise BaseMismatchError(
            f"the mask covers {odd} as {shapes.get(odd)}, but the base {config.base.name} built here has it as "
            f"{maskable.shapes.get(odd)}"
        )
    if maskable.aliases != config.aliases:
        raise BaseMismatchError(f"the base {config.base.name} built here ties other weights than the artefact says")
    adapted = _adapted(config)
    found = base_digest(base.tensors, adapted=adapted)
    unlike = [n.name for n in config.layers if n.name not in adapted and base.tensors[n.name].sha256 != n.sha256]
    if found != config.base.digest or unlike:
        raise BaseMismatchError(_first_difference(config, base, found))
    for extra in config.extras:
        tensor = base.tensors.get(extra.name)
        if tensor is None or tensor.shape != tuple(extra.shape):
            raise ArtefactError(f"extra tensor {extra.name} of shape {tuple(extra.shape)} does not fit the base")


def _masks_classifier(config: Config, model: nn.Module) -> bool:
    return not any(weight.reason == "classifier" for weight in config.dense)


def _adapted(config: Config) -> list[str]:
    adapted = config.info.get("adapted", [])
    if not isinstance(adapted, list) or not all(isinstance(name, str) for name in adapted):
        raise ArtefactError("config.json: info.adapted is not a list of tensor names")
    return adapted


def _first_difference(config: Config, base: Base, found: str) -> str:
    ref = config.base
    which = f"{ref.name}" + (f" at {ref.revision[:12]}" if ref.revision else "")
    for layer in config.layers:
        if base.tensors[layer.name].sha256 != layer.sha256:
            return (
                f"this is not the base of the mask: {layer.name} differs first; expected {which} (digest "
                f"{ref.digest[:12]}), found {base.ref.name} (digest {found[:12]})"
            )
    return (
        f"this is not the base of the mask: its masked weights agree, another tensor differs; expected {which} "
        f"(digest {ref.digest[:12]}), found {base.ref.name} (digest {found[:12]})"
    )
