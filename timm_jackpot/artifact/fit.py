"""Check that a config fits its base, by names and shapes alone: no weights are read, nothing large is allocated."""

from __future__ import annotations

from math import prod
from pathlib import Path

from timm.models import get_pretrained_cfg
from torch import nn

from timm_jackpot.artifact.schema import Config
from timm_jackpot.base import build_skeleton, classifier_parameters, maskable_weights, norm_statistics
from timm_jackpot.errors import ArtifactError, BaseMismatchError

_MAX_GROWTH = 4  # a Hub repo may enlarge its architecture at most this many times


def check_skeleton(config: Config, base_checkpoint: str | Path | None, trust_base: bool) -> None:
    """Refuse a config that does not fit its base, before the base's weights or the artifact's tensors are read.

    Raises:
        ArtifactError, BaseError, BaseMismatchError: as `from_pretrained`.
    """
    source_of(config, base_checkpoint, trust_base)
    check_without_base(config)


def check_without_base(config: Config) -> bool:
    """Like `check_skeleton`, for readers without a base: needs neither a checkpoint nor `trust_base`.

    Returns:
        False if the base is a custom module, so that there is nothing to compare with.

    Raises:
        BaseError, BaseMismatchError: as `from_pretrained`.
    """
    ref = config.base
    if ref.source == "module":
        return False
    registered = ref.source == "timm" and _is_registered(config)
    in_chans = ref.in_chans if adapted_in(config) else None
    model = build_skeleton(
        ref.name if registered else ref.architecture,
        ref.model_kwargs,
        num_classes=ref.num_classes,
        in_chans=in_chans,
        img_size=ref.img_size,
    )
    if registered or ref.source == "file":
        check_shapes(config, model)
    else:
        check_weight_count(config, model)
    return True


def check_weight_count(config: Config, model: nn.Module) -> None:
    """Refuse an artifact that covers far more weights than `model`: the base itself, or its unmodified architecture.

    A Hub repo that is not in timm's registry may modify its architecture, but not turn it into another one.

    Raises:
        BaseMismatchError: if the artifact covers too many weights.
    """
    claimed = config.sparsity.maskable[1] + sum(prod(extra.shape) for extra in config.extras)
    usual = sum(parameter.numel() for parameter in model.parameters())
    if claimed > _MAX_GROWTH * usual:
        raise BaseMismatchError(f"the artifact covers {claimed} weights, but a {config.base.architecture} has {usual}")


def check_shapes(config: Config, model: nn.Module) -> None:
    """Check names, order and shapes against the base `model`, with or without weights.

    A maskable weight may have been left dense; the config then lists it as dense.
    """
    _check_head_shapes(config, model)
    maskable = maskable_weights(model, mask_classifier=True)
    name = config.base.name
    shapes = {layer.name: tuple(layer.shape) for layer in config.layers}
    wrong = next((n for n, shape in shapes.items() if maskable.shapes.get(n) != shape), None)
    if wrong is not None:
        found = f"its shape is {maskable.shapes[wrong]}" if wrong in maskable.shapes else "it cannot be masked"
        raise BaseMismatchError(
            f"the mask covers {wrong} with shape {shapes[wrong]}, but in the base {name} built here {found}"
        )
    if [n for n in maskable.shapes if n in shapes] != list(shapes):
        raise BaseMismatchError(f"the artifact lists the layers of {name} in a different order")
    tied = {second: first for second, first in maskable.aliases.items() if first in shapes}
    if tied != config.aliases:
        raise BaseMismatchError(f"the base {name} built here ties different weights than the artifact says")
    dense = {weight.name for weight in maskable.dense} | (set(maskable.aliases) - set(tied))
    dense |= set(maskable.shapes) - set(shapes)
    if dense != {weight.name for weight in config.dense}:
        unexpected = min(dense ^ {weight.name for weight in config.dense})
        raise BaseMismatchError(
            f"the base {name} built here and the artifact disagree about which weights are left dense: {unexpected}"
        )
    if config.sparsity.all_parameters[1] != sum(parameter.numel() for parameter in model.parameters()):
        raise BaseMismatchError(f"the base {name} built here has a different number of parameters")
    _check_extras(config, model)


def _check_head_shapes(config: Config, model: nn.Module) -> None:
    """Check the head first: in a custom module, a wrong head causes the other differences."""
    state = model.state_dict()
    for extra in config.extras:
        if extra.role == "head" and extra.name in state and tuple(state[extra.name].shape) != tuple(extra.shape):
            raise BaseMismatchError(
                f"the artifact's head has {extra.name} of shape {tuple(extra.shape)}, but the base has "
                f"{tuple(state[extra.name].shape)}: give the base a last layer of that shape first, with any values"
            )


def _head_of(config: Config, model: nn.Module) -> set[str]:
    """Names of the classifier's parameters; if a custom module does not mark them, those that the artifact names."""
    head = set(classifier_parameters(model))
    if head or config.base.source != "module" or config.head is None:
        return head
    return set(config.head.names) & {name for name, _ in model.named_parameters()}


def _check_extras(config: Config, model: nn.Module) -> None:
    """Check that each extra replaces only tensors of its role, and never a masked weight."""
    weights = {layer.name for layer in config.layers} | {weight.name for weight in config.dense}
    head = _head_of(config, model)
    vectors = {name for name, parameter in model.named_parameters() if parameter.dim() <= 1}
    allowed = {
        "norm_statistics": set(norm_statistics(model)),
        "norm_affine": vectors - weights - head,
        "head": head - {layer.name for layer in config.layers},
    }
    state = model.state_dict()
    missing = allowed["head"] - {extra.name for extra in config.extras} if config.head else ()
    if missing:
        raise ArtifactError(f"the artifact has a new head but lacks its {min(missing)}")
    unset = set(adapted_in(config)) - {extra.name for extra in config.extras} if config.base.source == "module" else ()
    if unset:  # neither the digest nor the artifact would fix its values
        raise ArtifactError(f"the artifact lacks {min(unset)}, which info.adapted names")
    for extra in config.extras:
        if extra.name not in allowed[extra.role] or tuple(state[extra.name].shape) != tuple(extra.shape):
            raise ArtifactError(
                f"extra tensor {extra.name} of shape {tuple(extra.shape)} does not fit the base as {extra.role}"
            )


def source_of(config: Config, checkpoint: str | Path | None, trust_base: bool) -> str:
    """The name under which to load the base.

    Raises:
        ArtifactError: if the caller must provide the base or trust it first.
    """
    ref = config.base
    if ref.source == "module":
        raise ArtifactError(f"the base {ref.architecture} is a custom module: pass it as base=module")
    if ref.source == "file" and checkpoint is None:
        raise ArtifactError(
            f"the base {ref.name} was loaded from a file: pass the same file with --base-checkpoint "
            "(base_checkpoint=… in Python)"
        )
    if checkpoint is not None:
        return ref.architecture
    if ref.hub_id is None or _is_registered(config):
        return ref.name
    if not (trust_base or ref.hub_id.startswith("timm/")):
        raise ArtifactError(
            f"the artifact's base is outside timm's own repos ({ref.hub_id}): pass trust_base=True to build it"
        )
    return f"hf-hub:{ref.hub_id}"  # the recorded revision is passed separately


def _is_registered(config: Config) -> bool:
    """Whether timm's registry has the base's weights under this name."""
    try:
        cfg = get_pretrained_cfg(config.base.name)
    except RuntimeError:  # an unknown tag; `load_base` says so
        cfg = None
    return config.base.hub_id is None or (cfg is not None and cfg.hf_hub_id == config.base.hub_id)


def adapted_in(config: Config) -> list[str]:
    return config.info.get("adapted", [])
