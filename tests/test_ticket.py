"""A trained ticket: a folder that timm opens, with its mask as a jackpot on the weights that it began from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from timm_jackpot import from_pretrained
from timm_jackpot.artifact import read_ticket
from timm_jackpot.errors import ArtifactError, ConfigError, RunInterrupted
from timm_jackpot.hub import push_to_hub
from timm_jackpot.search import config_of
from timm_jackpot.search.ticket import TicketResult, finished_ticket, train_ticket
from timm_jackpot.training import RunState

pytestmark = pytest.mark.usefixtures("few_digits")

SETTINGS: dict[str, Any] = {"dataset": "digits", "batch_size": 64, "sparsity": "0.8", "steps": 18}


def train(folder: Path, name: str = "lottery_ticket", **more: Any) -> TicketResult:
    return train_ticket(config_of(name)(output=str(folder), **{**SETTINGS, **more}))


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> TicketResult:
    return train(tmp_path_factory.mktemp("ticket") / "lt")


def folder_of(ticket: TicketResult) -> Path:
    return Path(ticket.summary["ticket"])


def test_a_ticket_is_a_timm_checkpoint_with_zeros(ticket: TicketResult) -> None:
    folder = folder_of(ticket)
    written = read_ticket(folder)
    assert written == ticket.ticket
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    for layer in written.layers:
        assert int(plain[layer.name].count_nonzero()) <= layer.kept < layer.total
    assert all(torch.equal(plain[name], tensor) for name, tensor in ticket.model.state_dict().items())
    assert sum(layer.kept for layer in written.layers) == round(0.2 * sum(layer.total for layer in written.layers))
    assert next(phase.title for phase in written.phases) == "dense training"
    assert sum(phase.steps for phase in written.phases) == 18
    assert written.results["top1"] <= written.results["top5"]
    assert written.rewind_step == 0
    assert written.correlation is not None
    assert written.spent.backward_flops == 2 * written.spent.forward_flops


def test_its_mask_is_a_jackpot_on_the_weights_that_it_began_from(ticket: TicketResult) -> None:
    folder = folder_of(ticket)
    initial = load_file(folder / "initial.safetensors")
    untrained = from_pretrained(folder / "jackpot", base_checkpoint=folder / "initial.safetensors").state_dict()
    trained = load_file(folder / "model.safetensors")
    moved = 0
    for layer in ticket.ticket.layers:
        mask = untrained[layer.name] != 0
        assert int(mask.count_nonzero()) == layer.kept
        assert torch.equal(untrained[layer.name], initial[layer.name] * mask)
        assert not trained[layer.name][~mask].any()
        moved += int((trained[layer.name] != untrained[layer.name]).any())
    assert moved == len(ticket.ticket.layers)


def test_a_ticket_is_not_taken_for_a_jackpot(ticket: TicketResult) -> None:
    folder = folder_of(ticket)
    for refused in (
        lambda: push_to_hub(folder, "someone/ticket"),
        lambda: from_pretrained(folder),
    ):
        with pytest.raises(ArtifactError, match="holds a ticket, whose weights are trained, and no jackpot"):
            refused()


def test_fine_tuning_that_begins_from_the_base_needs_no_other_weights(tmp_path: Path) -> None:
    result = train(tmp_path / "g", "gradual_magnitude", steps=4)
    assert not (tmp_path / "g" / "initial.safetensors").exists()
    network = from_pretrained(tmp_path / "g" / "jackpot")
    assert result.ticket.initial == result.ticket.base.digest
    assert sum(int(p.count_nonzero()) for p in network.parameters()) < sum(p.numel() for p in network.parameters())


def test_a_small_dense_network_has_no_mask(tmp_path: Path) -> None:
    result = train(tmp_path / "s", "small_dense", model="cifar_resnet20", pretrained=False, steps=2)
    assert not (tmp_path / "s" / "jackpot").exists()
    assert result.ticket.layers == []
    assert timm.create_model("cifar_resnet20", width=1).state_dict().keys() == result.model.state_dict().keys()


@pytest.mark.parametrize("name", ["lottery_ticket", "weight_rewinding", "rigl"])
def test_a_stopped_ticket_goes_on_as_if_it_had_not_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"update_interval": 2} if name == "rigl" else {}
    whole = train(tmp_path / "whole", name, **more)
    after_step = RunState.after_step

    def with_signal(self: RunState, done: int, steps: int, state: object) -> None:
        if done == 11 and self.resumed is None:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, done, steps, state)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(RunState, "after_step", with_signal)
    with pytest.raises(RunInterrupted, match="after step 11 of 18"):
        train(tmp_path / "stopped", name, **more)
    resumed = train(tmp_path / "stopped", name, resume="auto", **more)
    assert resumed.ticket.mask_hash == whole.ticket.mask_hash
    for file in ("model.safetensors", "initial.safetensors"):
        one, other = (load_file(tmp_path / folder / file) for folder in ("whole", "stopped"))
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), file
    assert resumed.summary["top1"] == whole.summary["top1"]


def test_a_finished_ticket_is_reported_and_not_replaced(ticket: TicketResult, tmp_path: Path) -> None:
    folder = tmp_path / "lt"
    shutil.copytree(folder_of(ticket), folder)
    config = config_of("lottery_ticket")(output=str(folder), resume="auto", **SETTINGS)
    finished = finished_ticket(config)
    assert finished is not None
    assert finished["top1"] == ticket.summary["top1"]
    assert finished_ticket(config.model_copy(update={"seed": 5})) is None
    with pytest.raises(ConfigError, match=r"already contains config\.json: choose a new folder, or replace it"):
        train(folder)
    train(folder, "static_random", steps=2, overwrite=True)
    assert read_ticket(folder).method == "static_random"
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match=r"already contains config\.json: choose a new folder$"):
        train(folder, overwrite=True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": 2}, "at format"),
        ({"kind": "jackpot"}, "at kind"),
        ({"correlation": 2.0}, "at correlation"),
        ({"more": 1}, "at more"),
        ({"mask_hash": "../x"}, "at mask_hash"),
    ],
)
def test_a_hostile_ticket_is_refused(change: dict[str, Any], fault: str, ticket: TicketResult, tmp_path: Path) -> None:
    content = json.loads((folder_of(ticket) / "ticket.json").read_text())
    (tmp_path / "ticket.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ArtifactError, match=fault):
        read_ticket(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no ticket\.json"):
        read_ticket(tmp_path / "missing")


def test_settings_that_make_no_ticket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the method probe does not give a mask"):
        train(tmp_path / "probe", "probe")
    with pytest.raises(ConfigError, match="8 rounds of pruning need at least 9 steps, not 3"):
        train(tmp_path / "few", steps=3)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_trains_a_ticket(tmp_path: Path) -> None:
    words = [
        "--method",
        "rigl",
        "--dataset",
        "digits",
        "--sparsity",
        "0.9",
        "--steps",
        "2",
        "--batch-size",
        "64",
        "--output",
        "t",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "timm_jackpot.search", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=tmp_path,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["method"] == "rigl"
    assert 0 <= summary["top1"] <= summary["top5"] <= 100
    assert read_ticket(tmp_path / "t").sparsity == "0.9"


def test_a_ticket_is_transferred_with_its_weights_or_without(ticket: TicketResult, tmp_path: Path) -> None:
    found = folder_of(ticket)
    mask, theta = read_ticket(found).mask_hash, load_file(found / "initial.safetensors")
    other = {"ticket": str(found), "sparsity": "0.5", "steps": 4, "seed": 5, "train_part": "1/2"}
    both = train(tmp_path / "both", "transferred_ticket", **other)
    alone = train(tmp_path / "alone", "transferred_ticket", initial_weights="random", **other)
    for result in (both, alone):
        assert result.ticket.mask_hash == mask
        state = result.model.state_dict()
        assert all(not state[layer.name].count_nonzero() > layer.kept for layer in result.ticket.layers)
    began = [load_file(folder_of(result) / "initial.safetensors") for result in (both, alone)]
    layers = [layer.name for layer in result.ticket.layers]
    assert all(torch.equal(began[0][name], theta[name]) for name in layers)
    assert not any(torch.equal(began[1][name], theta[name]) for name in layers)
    head = next(name for name in theta if name.endswith("fc.weight"))
    assert not torch.equal(began[0][head], theta[head]), "a new classifier"


def test_what_cannot_be_transferred_is_refused(ticket: TicketResult, tmp_path: Path) -> None:
    small = train(tmp_path / "small", "small_dense", model="cifar_resnet20", pretrained=False, steps=1)
    for settings, told in (
        ({}, "name the ticket to transfer: --ticket FOLDER"),
        ({"ticket": str(tmp_path)}, "holds no ticket.json"),
        ({"ticket": str(folder_of(small))}, "holds a dense network, without a mask"),
        ({"ticket": str(folder_of(ticket)), "model": "cifar_resnet20", "pretrained": False}, "masks other weights"),
    ):
        with pytest.raises((ArtifactError, ConfigError), match=told):
            train(tmp_path / "t", "transferred_ticket", **settings)
        assert not (tmp_path / "t").exists()
