"""Whether a config fits its base, seen from names and shapes alone: no weight is read, and nothing of any size made."""

from __future__ import annotations

from math import prod
from pathlib import Path

from timm.models import get_pretrained_cfg
from torch import nn

from timm_jackpot.artifact.schema import Config
from timm_jackpot.base import build_skeleton, classifier_parameters, maskable_weights, norm_statistics
from timm_jackpot.errors import ArtifactError, BaseMismatchError

_GROWTH = 4  # how many times as large as usual a repo of its own may make its network


def check_skeleton(config: Config, base_checkpoint: str | Path | None, trust_base: bool) -> None:
    """Refuse what can be refused without the base's weights, before an artifact's own tensors are read.

    Raises:
        ArtifactError, BaseError, BaseMismatchError: as `from_pretrained`.
    """
    source_of(config, base_checkpoint, trust_base)
    check_without_base(config)


def check_without_base(config: Config) -> bool:
    """`check_skeleton` for readers that bring no base, and need nobody's word for one.

    Returns:
        False where there is nothing to compare with: the base is a module of its author's own.

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
    """Refuse what is not even of the size of `model`: the base itself, or what it is an alteration of.

    A Hub repo that timm has no entry for may alter its architecture, but not make another one of it.

    Raises:
        BaseMismatchError: for many times as many weights.
    """
    claimed = config.sparsity.maskable[1] + sum(prod(extra.shape) for extra in config.extras)
    usual = sum(parameter.numel() for parameter in model.parameters())
    if claimed > _GROWTH * usual:
        raise BaseMismatchError(f"the artifact covers {claimed} weights, but a {config.base.architecture} has {usual}")


def check_shapes(config: Config, model: nn.Module) -> None:
    """Names, order and shapes must be those of the base, with or without weights.

    Any weight that could be masked may have been left dense instead; it is listed then.
    """
    _check_head_shapes(config, model)
    maskable = maskable_weights(model, mask_classifier=True)
    name = config.base.name
    shapes = {layer.name: tuple(layer.shape) for layer in config.layers}
    odd = next((n for n, shape in shapes.items() if maskable.shapes.get(n) != shape), None)
    if odd is not None:
        raise BaseMismatchError(
            f"the mask covers {odd} as {shapes[odd]}, but the base {name} built here has it as "
            f"{maskable.shapes.get(odd)}"
        )
    if [n for n in maskable.shapes if n in shapes] != list(shapes):
        raise BaseMismatchError(f"the artifact lists the layers of {name} in another order")
    tied = {second: first for second, first in maskable.aliases.items() if first in shapes}
    if tied != config.aliases:
        raise BaseMismatchError(f"the base {name} built here ties other weights than the artifact says")
    dense = {weight.name for weight in maskable.dense} | (set(maskable.aliases) - set(tied))
    dense |= set(maskable.shapes) - set(shapes)
    if dense != {weight.name for weight in config.dense}:
        odd = min(dense ^ {weight.name for weight in config.dense})
        raise BaseMismatchError(
            f"the base {name} built here has other weights beside the masked ones than the artifact says: {odd}"
        )
    if config.sparsity.all_parameters[1] != sum(parameter.numel() for parameter in model.parameters()):
        raise BaseMismatchError(f"the base {name} built here has another number of parameters")
    _check_extras(config, model)


def _check_head_shapes(config: Config, model: nn.Module) -> None:
    """A module brings its head's shapes, and its reader has to make them: before any other difference that follows."""
    state = model.state_dict()
    for extra in config.extras:
        if extra.role == "head" and extra.name in state and tuple(state[extra.name].shape) != tuple(extra.shape):
            raise BaseMismatchError(
                f"the artifact's head has {extra.name} of shape {tuple(extra.shape)}, the base "
                f"{tuple(state[extra.name].shape)}: give it a last layer of that shape first, with any values"
            )


def _head_of(config: Config, model: nn.Module) -> set[str]:
    """Parameters of the classifier; of a module that does not say where that is, those that the artifact names."""
    head = set(classifier_parameters(model))
    if head or config.base.source != "module" or config.head is None:
        return head
    return set(config.head.names) & {name for name, _ in model.named_parameters()}


def _check_extras(config: Config, model: nn.Module) -> None:
    """An extra may replace what its role says, and nothing else: no mask reaches past it."""
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
        raise ArtifactError(f"the artifact has a new head, but not its {min(missing)}")
    unset = set(adapted_in(config)) - {extra.name for extra in config.extras} if config.base.source == "module" else ()
    if unset:  # neither the digest nor the artifact would say what it holds
        raise ArtifactError(f"the artifact does not bring {min(unset)}, which info.adapted names")
    for extra in config.extras:
        if extra.name not in allowed[extra.role] or tuple(state[extra.name].shape) != tuple(extra.shape):
            raise ArtifactError(
                f"extra tensor {extra.name} of shape {tuple(extra.shape)} does not fit the base as {extra.role}"
            )


def source_of(config: Config, checkpoint: str | Path | None, trust_base: bool) -> str:
    """The name to load the base by.

    Raises:
        ArtifactError: if the caller has to bring the base, or to trust it first.
    """
    ref = config.base
    if ref.source == "module":
        raise ArtifactError(f"the base {ref.architecture} is a module of its author's own: pass it as base=module")
    if ref.source == "file" and checkpoint is None:
        raise ArtifactError(
            f"the base {ref.name} was loaded from a file: give the same file with --base-checkpoint "
            "(base_checkpoint=… in Python)"
        )
    if checkpoint is not None:
        return ref.architecture
    if ref.hub_id is None or _is_registered(config):
        return ref.name
    if not (trust_base or ref.hub_id.startswith("timm/")):
        raise ArtifactError(
            f"the artifact names a base outside timm's own repos ({ref.hub_id}): say trust_base=True to build it"
        )
    return f"hf-hub:{ref.hub_id}"  # at the recorded revision, which goes by itself


def _is_registered(config: Config) -> bool:
    """Whether the base's weights are those that timm itself knows under this name."""
    try:
        cfg = get_pretrained_cfg(config.base.name)
    except RuntimeError:  # an unknown tag; `load_base` says so
        cfg = None
    return config.base.hub_id is None or (cfg is not None and cfg.hf_hub_id == config.base.hub_id)


def adapted_in(config: Config) -> list[str]:
    return config.info.get("adapted", [])
