"""`recognize_base`: identify the base that a loaded model is."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from timm_jackpot.base.load import Base, load_base
from timm_jackpot.base.maskable import classifier_parameters
from timm_jackpot.base.module import base_from_module
from timm_jackpot.base.tensors import TensorId, tensor_ids
from timm_jackpot.errors import BaseError, JackpotError
from timm_jackpot.runtime.log import log


def recognize_base(model: nn.Module) -> Base:
    """Identify a model as a base. A timm model is recognized by its published weights, even with a new head.

    Any other model becomes a base with source "module": loading the artifact takes the same module. Its last linear
    layer, with untrained ones beside it, counts as a new classifier: no look at trained weights tells what they know.

    Raises:
        BaseError: if the model has no linear layer to be its classifier.
    """
    name, reason = _published_name(model), None
    if name is not None:
        found = _as_published(model, name)
        if isinstance(found, Base):
            return found
        reason = found
    return _as_module(model, reason)


def _published_name(model: nn.Module) -> str | None:
    """The name under which `load_base` finds the published weights of the model, if any."""
    described: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    architecture, tag = described.get("architecture"), described.get("tag")
    if not architecture or not is_model(architecture) or described.get("source") == "module":
        return None
    try:
        published = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:  # timm raises it for an unknown tag
        published = None
    if published is not None and published.hf_hub_id == described.get("hf_hub_id"):
        return f"{architecture}.{tag}" if tag else architecture
    return f"hf-hub:{described['hf_hub_id']}" if described.get("hf_hub_id") else None


def _as_published(model: nn.Module, name: str) -> Base | str:
    """The model as the base `name`, or the reason why it is not that base."""
    described: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    file = described.get("file")
    own_file = file if file and file != _registered_file(name) else None
    head = classifier_parameters(model)
    classes = next((len(parameter) for parameter in reversed(head.values())), None)
    try:
        with torch.random.fork_rng(devices=[]):  # the reference gets a random new head, which is not used
            reference = load_base(name, base_checkpoint=own_file, num_classes=classes)
    except JackpotError as error:
        return str(error)
    ids = tensor_ids(model)
    if difference := _first_difference(ids, reference, set(head)):
        return difference
    model.num_classes = reference.ref.num_classes  # pyright: ignore[reportArgumentType]
    own = {name: ids[name] for name in reference.adapted}
    return Base(model.eval(), reference.ref, {**reference.tensors, **own}, reference.adapted)


def _registered_file(name: str) -> str | None:
    published = None if ":" in name else get_pretrained_cfg(name)
    return None if published is None else published.file


def _first_difference(ids: dict[str, TensorId], reference: Base, head: set[str]) -> str | None:
    for name in {**reference.tensors, **ids}:
        mine, theirs = ids.get(name), reference.tensors.get(name)
        if mine is None or theirs is None or mine[:2] != theirs[:2] or (mine != theirs and name not in head):
            return f"{name} differs from the published weights of {reference.ref.name}"
    return None


def _as_module(model: nn.Module, reason: str | None) -> Base:
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise BaseError(
            f"{type(model).__name__} has no linear layer to be its classifier: name the classifier with "
            "base_from_module(model, 'my_net', num_classes=10, classifier='head.conv')"
        )
    last, layer = list(linear.items())[-1]
    parent = last.rpartition(".")[0]
    # A head of several layers: those that nobody trained yet, beside the last one.
    head = [
        name
        for name in linear
        if name == last or (parent and name.rpartition(".")[0] == parent and _looks_new(linear[name]))
    ]
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    base = base_from_module(
        model,
        type(model).__name__.lower(),
        num_classes=layer.out_features,
        input_size=size,
        classifier=head,
        new_head=True,
    )
    log.warning(
        "note: %s is a custom base%s: loading the artifact takes base=module. Its classifier %s (%d classes) will be "
        "trained and stored; to keep it frozen, pass base_from_module(…) instead of the model",
        base.ref.name,
        f" ({reason})" if reason else "",
        " and ".join(head),
        layer.out_features,
    )
    return base


@torch.no_grad()
def _looks_new(layer: nn.Linear) -> bool:
    """Whether the weights are uniform between ±1/√inputs, as `nn.Linear` initializes them; trained weights are not.

    The rms of n uniform values is bound/√3 with a relative standard deviation of 0.45/√n; five of these are allowed.
    """
    weight, bound = layer.weight.double(), layer.in_features**-0.5
    n, rms = weight.numel(), float(weight.square().mean().sqrt())
    return float(weight.abs().max()) <= bound * (1 + 1e-6) and abs(rms / bound * 3**0.5 - 1) <= 5 * 0.45 / n**0.5
