"""A trained ticket on disk: a plain timm checkpoint with zeros, and beside it the mask on the weights it began from.

ticket.json            what it is: method, settings, counts, cost, results
model.safetensors, config.json   the trained weights, zeros for removed ones; timm opens the folder
initial.safetensors    the weights that its final training began from (θ₀, or θ_k), if they are not the base's
jackpot/               the mask on those weights, an artifact like any other
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from timm_jackpot.artifact.schema import Count, Name, Producer, Text
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.base import BaseRef
from timm_jackpot.base.ref import Hex64
from timm_jackpot.errors import ArtifactError
from timm_jackpot.schema import Document, fault_of

TICKET, INITIAL, INNER = "ticket.json", "initial.safetensors", "jackpot"
TICKET_FORMAT = 1
_MAX_BYTES = 4 * 1024 * 1024
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TicketPhase(Document):
    title: Text
    steps: Count
    kept: Count  # weights, at the end of the phase


class TicketLayer(Document):
    name: Name
    kept: Count
    total: int = Field(ge=1, le=2**53)


class Spent(Document):
    """What finding and training it took, in theory: as if zeros cost nothing."""

    epochs: dict[str, _Amount]  # by phase
    forward_flops: _Amount
    backward_flops: _Amount
    seconds: _Amount


class Ticket(Document):
    """ticket.json."""

    format: int = Field(ge=1, le=TICKET_FORMAT)
    kind: Literal["ticket"]
    producer: Producer
    method: Name
    settings: dict[str, Any]
    base: BaseRef
    initial: Hex64  # digest of the weights that the final training began from
    rewind_step: Count  # steps of dense training behind them
    sparsity: Text  # as asked for
    layers: Annotated[list[TicketLayer], Field(max_length=100_000, fail_fast=True)]  # empty: a dense network
    mask_hash: Hex64 | None
    phases: Annotated[list[TicketPhase], Field(max_length=1000, fail_fast=True)]
    spent: Spent
    correlation: Annotated[float, Field(ge=0, le=1)] | None  # R_0.2 of the kept weights before and after training
    results: dict[str, Any]


def is_ticket(folder: str | Path) -> bool:
    return os.path.isfile(Path(folder) / TICKET)


def read_ticket(folder: str | Path) -> Ticket:
    """Read ticket.json.

    Raises:
        ArtifactError: if there is none, or it is not valid.
    """
    if not is_ticket(folder):
        raise ArtifactError(f"{folder} holds no {TICKET}: name the folder of a trained ticket")
    values = parse_strict(read_bytes(Path(folder) / TICKET, _MAX_BYTES), TICKET, max_bytes=_MAX_BYTES)
    try:
        return Ticket(**values)
    except ValidationError as error:
        raise ArtifactError(f"{TICKET} in {folder} is not valid, {fault_of(error)}") from error
