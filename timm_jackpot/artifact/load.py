"""`from_pretrained`: artifact → base (digest checked) → plain timm module with zeros in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from timm_jackpot.adapter import merge
from timm_jackpot.artifact.fit import adapted_in, check_shapes, check_skeleton, source_of
from timm_jackpot.artifact.locate import locate_artifact
from timm_jackpot.artifact.read import Artifact, read_artifact
from timm_jackpot.artifact.schema import Config
from timm_jackpot.base import (
    Base,
    SkipInit,
    base_digest,
    load_base,
    tensor_ids,
)
from timm_jackpot.errors import BaseMismatchError
from timm_jackpot.masks import MaskSet


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
    """Load a jackpot: the plain timm model in eval mode, with its removed weights set to zero.

    `timm.data.resolve_model_data_config(model)` gives its data config.

    Args:
        name: an artifact folder, or the name of a Hub repo (`user/name`).
        base_checkpoint: a .safetensors file with the base's weights, for a base that is not on the Hub.
        base: a module to use as the base instead; it is changed in place and returned.
        revision, token, cache_dir, local_files_only: as in huggingface_hub.
        trust_base: allow a base from outside timm's own Hub repos.
        device, dtype: of the returned model, which is converted after all checks.

    Raises:
        ArtifactError: the artifact is missing, damaged, edited or too new.
        BaseMismatchError: the base is not the one the mask was searched on.
        BaseError, HubError: the base cannot be built or fetched.
    """
    artifact, loaded = open_artifact(
        name,
        base_checkpoint=base_checkpoint,
        base=base,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        trust_base=trust_base,
    )
    model = apply_artifact(loaded.model, artifact, artifact.masks_on(loaded))
    return model.to(device=device, dtype=dtype).eval()


def open_artifact(
    name: str | Path,
    *,
    base_checkpoint: str | Path | None = None,
    base: nn.Module | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    trust_base: bool = False,
) -> tuple[Artifact, Base]:
    """Read an artifact and load its base: checked against each other, not yet merged.

    Args and errors: as `from_pretrained`.
    """
    hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}

    def check(config: Config) -> None:
        """Refuse what does not fit the base before the artifact's own tensors are read."""
        if base is None:
            check_skeleton(config, base_checkpoint, trust_base)
        else:
            check_shapes(config, base)

    artifact = read_artifact(locate_artifact(name, revision=revision, check=check, **hub), check=check)
    return artifact, load_base_of(artifact, base_checkpoint=base_checkpoint, base=base, trust_base=trust_base, **hub)


def load_base_of(
    artifact: Artifact,
    *,
    base_checkpoint: str | Path | None = None,
    base: nn.Module | None = None,
    trust_base: bool = False,
    **hub: Any,
) -> Base:
    """Load and check an artifact's base; its weights are not masked yet.

    Args and errors: as `from_pretrained`; `hub` goes to huggingface_hub.
    """
    config = artifact.config
    if base is None:
        loaded = _build_base(config, base_checkpoint, trust_base, hub)
    else:
        loaded = Base(base, config.base, tensor_ids(base), ())
    check_base(config, loaded, built=base is None)
    return replace(loaded, adapted=tuple(adapted_in(config)))  # a module does not tell that its head is new


def load_dense_base(
    config: Config, *, base_checkpoint: str | Path | None = None, trust_base: bool = False, **hub: Any
) -> Base:
    """Load the base that an artifact names, with the base's own head; its digest is not checked.

    Args: as `from_pretrained`; `hub` goes to huggingface_hub.

    Raises:
        ArtifactError, BaseError, HubError: as `from_pretrained`.
    """
    return _build_base(config, base_checkpoint, trust_base, hub, own_head=True)


def check_base(config: Config, base: Base, *, built: bool) -> None:
    """Refuse a base that is not the artifact's.

    Args:
        built: whether the base was built from a config, rather than passed in by the user.

    Raises:
        ArtifactError, BaseMismatchError: as `from_pretrained`.
    """
    if built:
        _check_built(config, base)
    check_shapes(config, base.model)
    _check_digest(config, base)


def transform_of(model: nn.Module) -> Callable[[Any], Tensor]:
    """timm's evaluation transform for a model: PIL image → normalized tensor [c, h, w]."""
    return create_transform(**resolve_model_data_config(model))  # pyright: ignore[reportReturnType]


def apply_artifact(model: nn.Module, artifact: Artifact, masks: MaskSet) -> nn.Module:
    """Write masks, extras and data config into a base that has been checked."""
    merge(model, masks)
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in artifact.extras.items():
            state[name].copy_(tensor)
    model.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **described_by(artifact.config)}  # pyright: ignore
    return model


def described_by(config: Config) -> dict[str, Any]:
    """What an artifact changes in its base's `pretrained_cfg`: the data config, and with a new head the class names."""
    described, head = config.data.model_dump(), config.head
    if head is not None and (head.labels or set(head.names) <= set(adapted_in(config))):
        described |= {"num_classes": head.num_classes, "label_names": head.labels, "label_descriptions": None}
    return described


def _build_base(
    config: Config, checkpoint: str | Path | None, trust_base: bool, hub: dict[str, Any], *, own_head: bool = False
) -> Base:
    ref = config.base
    # If nothing was adapted, the digest covers every tensor, so one that the loader skipped would be noticed.
    unadapted = not adapted_in(config) and ref.img_size is None
    with torch.random.fork_rng(devices=[]), SkipInit() if unadapted else nullcontext():
        return load_base(
            source_of(config, checkpoint, trust_base),
            model_kwargs=ref.model_kwargs,
            base_checkpoint=checkpoint,
            num_classes=ref.num_classes if config.head and not own_head else None,
            in_chans=ref.in_chans if adapted_in(config) else None,
            img_size=ref.img_size,
            revision=ref.revision,
            **hub,
        )


def _check_built(config: Config, base: Base) -> None:
    """Compare what the artifact says about its base with the base that was built."""
    for what in ("architecture", "num_classes", "in_chans"):
        said, found = getattr(config.base, what), getattr(base.ref, what)
        if said != found:
            raise BaseMismatchError(f"the artifact says {what} {said}, but the base {base.ref.name} has {found}")
    if set(adapted_in(config)) != set(base.adapted):
        raise BaseMismatchError("info.adapted does not match the tensors of the base that had to be adapted")


def _check_digest(config: Config, base: Base) -> None:
    """Check that the base has the values that the artifact was made with.

    It is unknown what was adapted in a module passed in by the user, so all its masked layers must match.
    """
    found = base_digest(base.tensors, adapted=adapted_in(config))
    wrong = [n.name for n in config.layers if n.name not in base.adapted and base.tensors[n.name].sha256 != n.sha256]
    if found != config.base.digest or wrong:
        raise BaseMismatchError(_first_difference(config, base, found))


def _first_difference(config: Config, base: Base, found: str) -> str:
    ref = config.base
    which = f"{ref.name}" + (f" at {ref.revision[:12]}" if ref.revision else "")
    for layer in config.layers:
        if layer.name not in base.adapted and base.tensors[layer.name].sha256 != layer.sha256:
            return (
                f"this is not the base of the mask: {layer.name} differs first; expected {which} (digest "
                f"{ref.digest[:12]}), found {base.ref.name} (digest {found[:12]})"
            )
    return (
        f"this is not the base of the mask: its masked weights match, but another tensor differs; expected {which} "
        f"(digest {ref.digest[:12]}), found {base.ref.name} (digest {found[:12]})"
    )
