"""Trained tickets in a folder, such as the output of a sweep: by role, learning rate and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timm_jackpot.artifact import TICKET, Ticket, read_ticket
from timm_jackpot.errors import ArtifactError, ConfigError

ROLES = ("ticket", "random_reinit", "small_dense", "dense")
_PRUNED = ("lottery_ticket", "late_resetting", "weight_rewinding", "lr_rewinding", "imp", "omp")
_LENGTH = {"allocation", "steps", "epochs"}
_OWN = {  # settings in which a role may differ from the ticket; all may differ in method, lr and seed
    "ticket": set[str](),
    "random_reinit": set[str](),
    "small_dense": _LENGTH,
    "dense": {*_LENGTH, "sparsity", "prune_fraction", "rewind", "finetune_lr"},
}


@dataclass(frozen=True)
class Found:
    """A ticket's folder, and its place in the grid."""

    folder: Path
    ticket: Ticket
    role: str | None  # None: none that an audit asks about
    lr: float
    seed: int

    @property
    def last_steps(self) -> int:
        """Steps of its last training."""
        return self.ticket.phases[-1].steps if self.ticket.phases else 0


@dataclass(frozen=True)
class TicketGrid:
    """Tickets by role and learning rate, one for each seed, all with the same learning rates and seeds."""

    tickets: dict[str, dict[float, list[Found]]]
    left_out: list[str]  # methods that were found and that no principle asks about

    @property
    def first(self) -> Found:
        """A ticket under audit, if there is one."""
        return next(iter(next(iter(self.tickets.values())).values()))[0]

    @property
    def digest(self) -> str:
        """sha256 of what every ticket.json says."""
        every = (one for by_lr in self.tickets.values() for several in by_lr.values() for one in several)
        return hashlib.sha256("".join(one.ticket.model_dump_json() for one in every).encode()).hexdigest()

    @property
    def seeds(self) -> list[int]:
        return [one.seed for one in next(iter(self.tickets[str(self.first.role)].values()))]


def read_grid(folder: str, roles: Sequence[str] = ROLES) -> TicketGrid:
    """Find the tickets in a folder, and check that they can be compared.

    Args:
        roles: those that are needed; others are left alone.

    Raises:
        ArtifactError: if a ticket.json is not valid.
        ConfigError: if there is no ticket under audit or several, if a learning rate or seed is missing, or if tickets
            differ in a setting that they should share.
    """
    found = [_found(path.parent) for path in sorted(Path(folder).rglob(TICKET))]
    used = sorted((one for one in found if one.role in roles), key=lambda one: (one.lr, one.seed))
    methods = sorted({one.ticket.method for one in used if one.role == "ticket"})
    if not used or ("ticket" in roles and len(methods) != 1):
        wanted = f"one of {', '.join(_PRUNED)}" if "ticket" in roles else " or ".join(roles)
        raise ConfigError(
            f"{folder} holds tickets of {' and '.join(methods) or 'no method to audit'}: expected {wanted}"
        )
    tickets: dict[str, dict[float, list[Found]]] = {}
    for role in roles:
        for one in (one for one in used if one.role == role):
            tickets.setdefault(role, {}).setdefault(one.lr, []).append(one)
    grid = TicketGrid(tickets, sorted({one.ticket.method for one in found if one.role is None}))
    for role, by_lr in tickets.items():
        first = next(iter(by_lr.values()))[0]
        for one in (one for several in by_lr.values() for one in several):
            _check_alike(one, first, set())
        _check_alike(first, grid.first, _OWN[role])
        if first.last_steps < grid.first.last_steps and grid.first.role == "ticket":
            raise ConfigError(
                f"{role} was trained for {first.last_steps} steps, and the ticket for {grid.first.last_steps} after "
                "its last pruning: give it as many"
            )
        seeds = {lr: [one.seed for one in several] for lr, several in by_lr.items()}
        if seeds != dict.fromkeys(tickets[str(grid.first.role)], grid.seeds):
            raise ConfigError(
                f"{role} in {folder} has the learning rates and seeds {seeds}, expected seeds {grid.seeds} at each of "
                f"{sorted(tickets[str(grid.first.role)])}: finish the sweep"
            )
    return grid


def _found(folder: Path) -> Found:
    ticket = read_ticket(folder)
    lr, seed = ticket.settings.get("lr"), ticket.settings.get("seed")
    if not isinstance(lr, (int, float)) or not isinstance(seed, int):
        raise ArtifactError(f"{folder}/{TICKET} does not say its learning rate and seed")
    role = ticket.method if ticket.method in ROLES else None
    if ticket.method in _PRUNED:
        role = "dense" if all(layer.kept == layer.total for layer in ticket.layers) else "ticket"
    return Found(folder, ticket, role, float(lr), seed)


def _check_alike(one: Found, other: Found, own: set[str]) -> None:
    """Raises: ConfigError: if two tickets differ in what they should share."""
    mine, theirs = _told(one), _told(other)
    shared = mine.keys() & theirs.keys() - {"lr", "seed", "method", *own}
    for key in sorted(shared):
        if mine[key] != theirs[key]:
            raise ConfigError(
                f"{one.folder} was trained with {key} {mine[key]!r}, {other.folder} with {theirs[key]!r}: only "
                "methods, learning rates and seeds may differ"
            )


def _told(one: Found) -> dict[str, object]:
    base = one.ticket.base
    told = {"architecture": base.architecture, "classes": base.num_classes, "image size": base.img_size}
    layers = {layer.name: layer.total for layer in one.ticket.layers}
    told |= {"data": one.ticket.results.get("dataset")} | ({"maskable weights": layers} if layers else {})
    return {**one.ticket.settings, **told}
