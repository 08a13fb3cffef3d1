"""Judge every ticket of a grid on test and held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from timm_jackpot.artifact import Config
from timm_jackpot.audit.config import AuditConfig
from timm_jackpot.audit.tickets.grid import Found, TicketGrid
from timm_jackpot.audit.tickets.networks import TicketNetwork, check_initial_weights, open_network
from timm_jackpot.data import Data, ImageSource, open_data
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evaluation import predict
from timm_jackpot.evidence import plain_text
from timm_jackpot.search.reopen import data_flags

_TOLERANCE = 1.0  # points between the accuracy in ticket.json and ours, on another device


class Judged(NamedTuple):
    """The networks of one role at one learning rate, one for each seed."""

    found: list[Found]
    correct: NDArray[np.bool_]  # [seeds, images]
    validation: float  # top-1 on held-out images in per cent, mean over seeds
    networks: list[TicketNetwork]


def open_ticket_data(
    grid: TicketGrid, flags: AuditConfig, model: nn.Module, config: Config, accelerator: Accelerator
) -> Data:
    """The data that tickets were trained on: data set and splits from the flags, held-out images as in their training.

    Args:
        model, config: a network for these data, and the config of an artifact on it.

    Raises:
        ConfigError: if it is another data set, or without held-out images.
        DataError: if it cannot be read.
    """
    ticket = grid.first.ticket
    described = getattr(model, "pretrained_cfg", None) or {}
    model.pretrained_cfg = {**described, **config.data.model_dump()}  # pyright: ignore
    given = data_flags(ticket.settings, flags)
    with accelerator.main_process_first():
        data = open_data(given, model, device=accelerator.device, img_size=ticket.base.img_size)
    if data.name != ticket.results.get("dataset"):
        raise ConfigError(
            f"the tickets were trained on {plain_text(str(ticket.results.get('dataset')))}, not on {data.name}: name "
            "their data with --dataset or --data-dir"
        )
    if data.val is None:
        raise ConfigError("learning rates are chosen on held-out images: train tickets with a --val-fraction above 0")
    return data


def judge(
    grid: TicketGrid, maskable: list[str], data: Data, batch_size: int, accelerator: Accelerator
) -> dict[str, dict[float, Judged]]:
    """Check every ticket, and judge its network on test and held-out images; by role and learning rate.

    Raises:
        ArtifactError: if a ticket is damaged, began from other weights than it should, or has another accuracy than
            its ticket.json says.
    """

    def correct(network: nn.Module, split: ImageSource | None) -> NDArray[np.bool_]:
        assert split is not None
        return predict(network, split, batch_size=batch_size, accelerator=accelerator).correct.numpy()

    def judge_one(found: Found) -> tuple[TicketNetwork, NDArray[np.bool_], float]:
        if found.role in ("random_reinit", "dense") or found.ticket.method == "lottery_ticket":
            check_initial_weights(found)
        network = open_network(found, maskable)
        on_device = network.model.to(accelerator.device)
        test, held_out = correct(on_device, data.test), correct(on_device, data.val)
        validation = 100 * float(held_out.mean())
        _check_as_recorded(found, {"top1": 100 * float(test.mean()), "validation_top1": validation})
        return network._replace(model=on_device.cpu()), test, validation

    judged: dict[str, dict[float, Judged]] = {}
    for role, by_lr in grid.tickets.items():
        for lr, several in by_lr.items():
            networks, rows, held_out = zip(*map(judge_one, several), strict=True)
            judged.setdefault(role, {})[lr] = Judged(several, np.stack(rows), mean(held_out), [*networks])
    return judged


def best_rate(judged: Mapping[float, Judged]) -> float:
    """The learning rate with the best top-1 on held-out images; the smallest of several."""
    return max(judged, key=lambda lr: judged[lr].validation)


def _check_as_recorded(found: Found, top1: Mapping[str, float]) -> None:
    for key, ours in top1.items():
        theirs = found.ticket.results.get(key)
        if not isinstance(theirs, (int, float)) or abs(theirs - ours) > _TOLERANCE:
            raise ArtifactError(
                f"{found.folder} has a {key} of {ours:.2f} here, and its ticket.json says {theirs}: name "
                "the data and splits that it was trained with, or train it again"
            )
