"""Audits of trained tickets: all five principles from the networks themselves, and planted cheats are caught."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from timm_jackpot.artifact import read_artifact, read_ticket
from timm_jackpot.audit import AuditConfig, TicketReport, audit_tickets
from timm_jackpot.audit.__main__ import main
from timm_jackpot.audit.tickets import trained_rows
from timm_jackpot.audit.tickets.grid import read_grid
from timm_jackpot.audit.tickets.networks import check_initial_weights, open_network, way_from_start
from timm_jackpot.base import load_base
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evidence import DENSE_ROW, SMALL_DENSE_ROW
from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep
from timm_jackpot.search import SearchConfig, config_of, search_jackpot, train_ticket
from timm_jackpot.search.reopen import reopen_search

pytestmark = pytest.mark.usefixtures("few_digits")

LT, RR, DENSE = "method-lottery-ticket_sparsity-0.95", "method-random-reinit_sparsity-0.95", "sparsity-0_"
FEW = ("lr=0.02,0.1", "steps=8", "val_fraction=0.7")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe, far too short and with one seed."""
    folder = tmp_path_factory.mktemp("tickets") / "sweep"
    run_sweep(SweepConfig(sweep="ticket_audit", grid=FEW, seeds=(0,), output=str(folder)))
    return folder


@pytest.fixture
def copy(sweep: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sweep, tmp_path / "copy"))


@pytest.fixture(scope="module")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> TicketReport:
    output = tmp_path_factory.mktemp("audits") / "a"
    report = audit_tickets(AuditConfig(tickets=str(sweep), dataset="digits", output=str(output)))
    assert TicketReport.model_validate_json((output / "audit.json").read_text(encoding="utf-8")) == report
    page = (output / "audit.md").read_text(encoding="utf-8")
    assert f"Verdict: **{report.verdict}**" in page
    assert "① non-trivial sparsity (over 60 %) | yes | 95.00 % |" in page
    assert str(sweep.parent) not in page
    return report


def folder_of(tickets: Path, method: str, lr: float = 0.1) -> Path:
    return next(path for path in sorted(tickets.glob("*/seed0")) if method in str(path) and f"lr-{lr}" in str(path))


def test_every_network_is_judged_and_the_rate_is_chosen_on_held_out_images(report: TicketReport, sweep: Path) -> None:
    rows = {(row.role, row.lr): row for row in report.rows}
    assert {role for role, _ in rows} == {"ticket", "random_reinit", "small_dense", "dense"}
    assert len(rows) == 8
    for (role, lr), row in rows.items():
        other = rows[role, {0.02: 0.1, 0.1: 0.02}[lr]]
        assert row.chosen == (not other.chosen)
        assert row.validation >= other.validation or other.chosen
    for role, method in (("ticket", LT), ("random_reinit", RR), ("small_dense", "small-dense")):
        found = read_ticket(folder_of(sweep, method))
        assert rows[role, 0.1].top1.value == pytest.approx(found.results["top1"])
        assert rows[role, 0.1].validation == pytest.approx(found.results["validation_top1"])
    assert rows["ticket", 0.1].weights == report.kept
    assert 0.8 * report.kept <= rows["small_dense", 0.1].weights <= report.kept
    assert (rows["ticket", 0.1].last_steps, rows["dense", 0.1].last_steps) == (2, 8)
    assert report.same_masks == 1
    assert report.way_from_start is None


def test_every_principle_is_asked_of_the_chosen_rates(report: TicketReport) -> None:
    best = {row.role: row.top1.value for row in report.rows if row.chosen}
    at = {(row.role, row.lr): row.top1.value for row in report.rows}
    figures = {name: principle.figure for name, principle in report.principles.items()}
    assert all(figures.values())
    values = {name: figure.value for name, figure in figures.items() if figure is not None}
    assert values["small_dense"] == pytest.approx(best["ticket"] - best["small_dense"])
    assert values["clear_gap"] == pytest.approx(best["ticket"] - best["random_reinit"])
    assert values["similar_well_trained"] == pytest.approx(best["dense"] - best["ticket"])
    lr = report.principles["similar_same_lr"].lr
    assert lr is not None
    assert values["similar_same_lr"] == pytest.approx(at["dense", lr] - at["ticket", lr])
    assert report.test_images == 120
    assert report.leaked_test_images == 0


def _began_from(other: str, file: str = "initial.safetensors") -> Callable[[Path, Path], None]:
    def cheat(tickets: Path, folder: Path) -> None:
        save_file(load_file(folder_of(tickets, other) / file), folder / "initial.safetensors")

    return cheat


def _regrown(_: Path, folder: Path) -> None:
    state = {name: tensor + 1e-3 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("cheat", "method", "told"),
    [
        (_began_from(DENSE, "model.safetensors"), LT, "is no ticket: it began from weights that are not the random"),
        (_began_from(RR), LT, "is no ticket: it began from weights that are not the random ones of seed 0"),
        (_began_from(DENSE), RR, "is no control: it began from the ticket's own initial weights"),
        (_began_from(DENSE, "model.safetensors"), RR, "weights that are not the fresh ones of seed 0"),
        (_regrown, LT, "weights that the mask removes are not zero"),
        (lambda _, folder: (folder / "initial.safetensors").unlink(), LT, "did not begin from random weights"),
    ],
)
def test_a_planted_cheat_is_caught(
    cheat: Callable[[Path, Path], None], method: str, told: str, copy: Path, sweep: Path
) -> None:
    cheat(sweep, folder_of(copy, method, 0.02))
    with pytest.raises(ArtifactError, match=told):
        audit_tickets(AuditConfig(tickets=str(copy), dataset="digits"))


def _edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "ticket.json").read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (folder / "ticket.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda t: _edit(folder_of(t, LT), results={"top1": 99.5}), ArtifactError, "its ticket.json says 99.5"),
        (
            lambda t: _edit(folder_of(t, RR), settings={"weight_decay": 0.0}),
            ConfigError,
            r"with weight_decay 0\.0,",
        ),
        (lambda t: _edit(folder_of(t, LT), method="imp"), ConfigError, "holds tickets of imp and lottery_ticket: exp"),
        (lambda t: shutil.rmtree(folder_of(t, RR)), ConfigError, r"learning rates and seeds {0\.02: \[0\]}, expected"),
        (
            lambda t: [shutil.rmtree(p) for p in t.glob(f"{LT}*")],
            ConfigError,
            "no method to audit: expected one of lot",
        ),
    ],
)
def test_tickets_that_cannot_be_compared_are_refused(
    change: Callable[[Path], object], error: type[Exception], told: str, copy: Path
) -> None:
    change(copy)
    with pytest.raises(error, match=told):
        audit_tickets(AuditConfig(tickets=str(copy), dataset="digits"))


def test_what_is_missing_is_not_asked_and_leaves_the_verdict_open(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [path for path in copy.iterdir() if path.is_dir() and not path.name.startswith(LT)]:
        shutil.rmtree(path)
    monkeypatch.setattr(sys, "argv", ["audit", "--tickets", str(copy), "--dataset", "digits"])
    summary = main()
    answers = {name: one["answer"] for name, one in summary["principles"].items()}  # pyright: ignore
    assert answers.pop("sparsity") == "yes"
    assert set(answers.values()) == {"not asked"}
    assert summary["verdict"] == "not decided"
    assert "② clear drop of a small dense network: not asked." in capsys.readouterr().out
    assert (copy / "audit.md").is_file()


def test_a_rewound_ticket_is_not_taken_for_one_from_random_weights(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": "digits", "batch_size": 64, "steps": 8, "prune_fraction": 1.0, "rewind": 0.5}
    train_ticket(config_of("late_resetting")(output=str(tmp_path / "t"), val_fraction=0.7, **settings))
    (found,) = read_grid(str(tmp_path)).tickets["ticket"][0.1]
    with pytest.raises(ArtifactError, match="is no ticket"):
        check_initial_weights(found)
    network = open_network(found, [layer.name for layer in found.ticket.layers])
    assert 0 < way_from_start(found, network) < 2
    report = audit_tickets(AuditConfig(tickets=str(tmp_path), dataset="digits"))
    assert report.way_from_start == way_from_start(found, network)
    assert "late_resetting returns to are trained" in (tmp_path / "audit.md").read_text(encoding="utf-8")


def test_a_jackpot_stands_beside_trained_networks(copy: Path, tmp_path: Path, accelerator: Accelerator) -> None:
    folder = str(tmp_path / "j")
    search_jackpot(SearchConfig(steps=1, batch_size=64, sparsity="0.95", lr=0.1, output=folder))
    config, artifact = AuditConfig(artifact=folder, tickets=str(copy)), read_artifact(folder)
    task, _, search = reopen_search(artifact, load_base("digits_resnet"), config, accelerator)

    def rows(lr: float) -> dict[str, Any]:
        found, _ = trained_rows(config, artifact, task, search.model_copy(update={"lr": lr}))
        return {row.name: row.make().network for row in found}

    both = rows(0.1)
    assert both.keys() == {SMALL_DENSE_ROW, DENSE_ROW}
    dense = load_file(folder_of(copy, DENSE) / "model.safetensors")
    assert all((both[DENSE_ROW].state_dict()[name] == tensor).all() for name, tensor in dense.items())
    assert rows(0.3).keys() == {SMALL_DENSE_ROW}, "④ is asked at the search's own rate alone"
    for ticket in copy.glob("method-small-dense*/seed0"):
        _edit(ticket, sparsity="0.9")
    with pytest.raises(ConfigError, match=r"were made for a sparsity of 0\.9, and the jackpot's is 0\.95: train them"):
        rows(0.1)


def test_an_audit_needs_something_to_audit() -> None:
    with pytest.raises(ConfigError, match="name an artifact to audit, a folder of trained tickets"):
        AuditConfig()
    with pytest.raises(ConfigError, match="--beside goes with an artifact"):
        AuditConfig(tickets="x", beside=("snip",))
