"""Open the network of a trained ticket, and check that it is what its ticket.json says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from timm_jackpot.artifact import INITIAL, INNER, Config, read_artifact
from timm_jackpot.audit.tickets.grid import Found
from timm_jackpot.base import base_digest, random_network, state_ids
from timm_jackpot.errors import ArtifactError
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods.tickets.random_tickets import drawn_weights, fresh_weights
from timm_jackpot.methods.tickets.small_dense import narrow_width


class TicketNetwork(NamedTuple):
    """A ticket's network in eval mode, its mask (None: a small dense network), and what its artifact says."""

    model: nn.Module
    masks: MaskSet | None
    config: Config | None
    weights: int  # that it has, of those that can be masked


def open_network(found: Found, maskable: Sequence[str]) -> TicketNetwork:
    """Build a ticket's network from its files.

    Args:
        maskable: names of the weights that a ticket masks.

    Raises:
        ArtifactError: if files are missing or do not fit, or if removed weights are not zero.
    """
    state, ref, masks, config = _tensors(found.folder / "model.safetensors"), found.ticket.base, None, None
    weights = sum(state[name].numel() for name in maskable if name in state)
    changes = {}
    if found.role == "small_dense":
        changes = {"width": narrow_width(ref, maskable, weights)}
    else:
        artifact = read_artifact(found.folder / INNER)
        masks, config = artifact.masks, artifact.config
        weights = masks.kept
    with torch.random.fork_rng(devices=[]):
        model = random_network(ref, **changes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactError(f"model.safetensors in {found.folder} does not fit {ref.architecture}") from error
    counts = {} if masks is None else masks.kept_per_layer()
    if masks is not None and counts != {layer.name: layer.kept for layer in found.ticket.layers}:
        raise ArtifactError(f"the mask in {found.folder} does not have the counts in ticket.json")
    if any(state[name][~mask].any() for name, mask in (masks or {}).items()):
        raise ArtifactError(f"in {found.folder}, weights that the mask removes are not zero")
    return TicketNetwork(model.requires_grad_(False).eval(), masks, config, weights)


def check_initial_weights(found: Found) -> None:
    """Draw the weights again that a ticket should have begun from, and compare.

    Raises:
        ArtifactError: if it began from others.
    """
    ref, seed, began = found.ticket.base, found.seed, _digest(_tensors(found.folder / INITIAL))
    drawn = _digest(drawn_weights(ref, seed))
    if found.role != "random_reinit" and began != drawn:
        raise ArtifactError(
            f"{found.folder} is no ticket: it began from weights that are not the random ones of seed {seed}, so that "
            "they may be trained ones"
        )
    if found.role == "random_reinit" and began == drawn:
        raise ArtifactError(f"{found.folder} is no control: it began from the ticket's own initial weights")
    if found.role == "random_reinit" and began != _digest(fresh_weights(ref, seed)):
        raise ArtifactError(
            f"{found.folder} is no control: it began from weights that are not the fresh ones of seed {seed}"
        )


def way_from_start(found: Found, network: TicketNetwork) -> float:
    """How far the weights that a ticket returned to are from random ones: ‖θ_k − θ₀‖ / ‖θ − θ₀‖ on the kept weights,
    with θ₀ drawn again and θ the ticket's."""
    rewound, drawn = _tensors(found.folder / INITIAL), drawn_weights(found.ticket.base, found.seed)
    end = network.model.state_dict()
    masks = network.masks or {}

    def distance(state: Mapping[str, Tensor]) -> float:
        return sum(float((state[name] - drawn[name])[mask].double().square().sum()) for name, mask in masks.items())

    return (distance(rewound) / max(distance(end), 1e-12)) ** 0.5


def _digest(state: Mapping[str, Tensor]) -> str:
    return base_digest(state_ids(state))


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path.parent} has no {path.name}: it is damaged, or did not begin from random weights")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a readable safetensors file: {error}") from error
