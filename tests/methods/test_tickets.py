"""Tickets: rounds remove what they should, weights return to where they were, and cheats are caught."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.rivals.measure import stored_bytes
from timm_jackpot.masks import MaskSet, kept_count
from timm_jackpot.methods import Budget, Outcome, Task, build_network, cost_of, method
from timm_jackpot.methods.sparse import SparseWeights
from timm_jackpot.methods.tickets import magnitude_correlation, plan_rounds
from timm_jackpot.methods.tickets.lottery import FineTunedSettings, RewindingSettings
from timm_jackpot.methods.tickets.random_tickets import RandomTicketSettings, fresh_weights
from timm_jackpot.methods.tickets.rounds import TicketSettings
from timm_jackpot.methods.tickets.small_dense import narrow_width
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.task import open_task
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base

pytestmark = pytest.mark.usefixtures("few_digits")

BUDGET = Budget("0.8", "global", steps=16, seed=0)
IN_ROUNDS = (
    *("omp", "imp", "lottery_ticket", "late_resetting"),
    *("weight_rewinding", "lr_rewinding", "random_reinit", "random_ticket"),
)


@pytest.fixture(scope="module")
def task() -> Task:
    config = SearchConfig(dataset="digits", batch_size=64, val_fraction=0.8, steps=16)
    opened, _ = open_task(config, None, make_accelerator(seed=0))
    return replace(opened, data=replace(opened.data, val=None))


def run(task: Task, name: str, own: Any = None, **budget: Any) -> Outcome:
    return method(name).run(task, replace(BUDGET, **budget), own)


def watch_masks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MaskSet, dict[str, Tensor]]]:
    """The masks and weights after every change of masks."""
    seen: list[tuple[MaskSet, dict[str, Tensor]]] = []
    change = SparseWeights.replace_masks

    def watched(self: SparseWeights, masks: Any) -> None:
        change(self, masks)
        seen.append((MaskSet(self.masks), {n: w.detach().clone() for n, w in self.weights.items()}))

    monkeypatch.setattr(SparseWeights, "replace_masks", watched)
    return seen


@pytest.mark.parametrize("name", IN_ROUNDS)
def test_every_ticket_ends_with_the_exact_count_and_true_zeros(task: Task, name: str) -> None:
    before = {key: tensor.clone() for key, tensor in task.base.model.state_dict().items()}
    outcome = run(task, name)
    assert outcome.masks is not None
    assert outcome.masks.kept == kept_count(outcome.masks.total, "0.8")
    for key, mask in outcome.masks.items():
        assert not outcome.changed[key].tensor[~mask].any(), key
    assert sum(phase.steps for phase in outcome.phases) == outcome.steps == 16
    assert all(torch.equal(before[key], tensor) for key, tensor in task.base.model.state_dict().items())
    assert outcome.initial is not None
    state = build_network(task, outcome).state_dict()
    assert outcome.initial.keys() == state.keys()
    assert any(not torch.equal(outcome.initial[key], state[key]) for key in outcome.masks), "it was trained"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["0", "0.2", "0.5", "0.8", "0.9", "0.914", "0.99"]), st.floats(0.05, 1), st.integers(120, 500))
def test_rounds_share_out_all_steps(sparsity: str, fraction: float, steps: int) -> None:
    rounds = plan_rounds(Budget(sparsity, "global", steps, 0), fraction, rewind=0.25, shortened=True)
    assert rounds.starts[0] == 0
    assert rounds.starts[-1] == steps
    assert list(rounds.starts) == sorted(set(rounds.starts))
    assert len(rounds.starts) == len(rounds.sparsities) + 2
    assert [float(s) for s in rounds.sparsities] == sorted({float(s) for s in rounds.sparsities})
    assert [rounds.round_of(start) for start in rounds.starts[:-1]] == list(range(len(rounds.sparsities) + 1))
    if rounds.sparsities:
        assert float(rounds.sparsities[-1]) == float(sparsity)
        left = 1.0
        for removed in rounds.sparsities[:-1]:
            left *= 1 - fraction
            assert isclose(1 - float(removed), left, abs_tol=1e-4)


def test_a_fifth_of_what_remains_goes_in_each_round(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_masks(monkeypatch)
    outcome = run(task, "lottery_ticket")
    assert outcome.masks is not None
    total = outcome.masks.total
    expected = [kept_count(total, f"{s:.6f}") for s in (0.2, 0.36, 0.488, 0.5904, 0.67232, 0.737856, 0.790285, 0.8)]
    assert [masks.kept for masks, _ in seen] == expected
    assert all((later - earlier).kept == 0 for (earlier, _), (later, _) in itertools.pairwise(seen))


def test_a_lottery_ticket_returns_to_the_same_weights_in_every_round(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_masks(monkeypatch)
    outcome = run(task, "lottery_ticket")
    assert outcome.initial is not None
    assert len(seen) == 8
    for masks, weights in seen:
        for name, mask in masks.items():
            assert torch.equal(weights[name], outcome.initial[name] * mask), name
    fine_tuned = run(task, "imp")
    last = seen[-1]
    assert fine_tuned.initial is not None
    name = next(iter(last[1]))
    assert not torch.equal(last[1][name], outcome.initial[name])  # those of IMP go on instead


def test_pruning_from_the_base_begins_with_its_largest_weights(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_masks(monkeypatch)
    outcome = run(task, "omp", method("omp").settings(from_base=True))  # pyright: ignore[reportCallIssue]
    base = task.base.model.state_dict()
    ((masks, weights),) = seen
    assert outcome.masks is not None
    assert masks.hash() == outcome.masks.hash()
    assert all(torch.equal(weights[name], base[name] * mask) for name, mask in masks.items())
    assert [(phase.title, phase.steps) for phase in outcome.phases] == [("training", 16)]
    assert outcome.initial is not None
    assert all(torch.equal(outcome.initial[name], tensor) for name, tensor in base.items())
    everything = torch.cat([base[name].abs().flatten() for name in masks])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert everything[kept].min() >= everything[~kept].max()
    seen.clear()
    run(task, "imp", method("imp").settings(from_base=True))  # pyright: ignore[reportCallIssue]
    assert len(seen) == 8


def test_a_tuned_jackpot_has_the_mask_of_the_search_and_other_weights(task: Task) -> None:
    found = run(task, "search", method("search").settings(distill_weight=0), steps=10)  # pyright: ignore
    own = method("tuned_jackpot").settings(distill_weight=0, tune_fraction=0.375)  # pyright: ignore
    tuned = run(task, "tuned_jackpot", own)
    assert found.masks is not None
    assert tuned.masks is not None
    assert tuned.masks.hash() == found.masks.hash()
    base = task.base.model.state_dict()
    for name, mask in found.masks.items():
        weight = tuned.changed[name].tensor
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], base[name][mask]), "it was trained"
    assert [phase.title for phase in tuned.phases] == ["search", "search", "training"]
    assert sum(phase.steps for phase in tuned.phases) == tuned.steps == 16
    assert tuned.phases[-1].steps == 6
    with pytest.raises(ConfigError, match="1 steps are too few to search and to tune"):
        run(task, "tuned_jackpot", steps=1)


def test_late_resetting_returns_to_the_step_that_it_names(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_masks(monkeypatch)
    own = method("late_resetting").settings(rewind=0.5, prune_fraction=1)  # pyright: ignore[reportCallIssue]
    outcome = run(task, "late_resetting", own)
    (masks, weights), *more = seen
    assert not more
    # Eight dense steps, of which four come before the rewind step: those of a run that stops there.
    schedule = {"lr_schedule": "constant"}
    late = method("late_resetting").settings(rewind=0.5, prune_fraction=1, **schedule)  # pyright: ignore
    seen.clear()
    run(task, "late_resetting", late)
    early = run(task, "lottery_ticket", TicketSettings(lr_schedule="constant"), sparsity="0", steps=4)
    for name, mask in masks.items():
        assert torch.equal(seen[0][1][name], early.changed[name].tensor * seen[0][0][name]), name
        assert not torch.equal(weights[name], outcome.changed[name].tensor), mask.shape


def test_a_ticket_with_every_weight_is_dense_training_bit_for_bit(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.8, "steps": 6, "seed": 3}
    kept: dict[str, Any] = {"stratify": True, "save_steps": (0,), "output": str(tmp_path / "dense")}
    pretrain_base(PretrainConfig(model="cifar_resnet20", **kept, **shared))
    theta_0 = load_file(tmp_path / "dense" / "step_0.safetensors")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    config = SearchConfig(model="cifar_resnet20", pretrained=False, **shared)
    task, _ = open_task(config, None, make_accelerator(seed=3))
    task = replace(task, data=replace(task.data, val=None))
    outcome = run(task, "lottery_ticket", sparsity="0", steps=6, seed=3)
    assert outcome.masks is not None
    assert outcome.masks.sparsity == 0
    assert outcome.initial is not None
    assert all(torch.equal(outcome.initial[name], theta_0[name]) for name in outcome.masks)
    for name, tensor in build_network(task, outcome).state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, dense[name]), name


def test_rewinding_repeats_the_schedule_from_the_rewind_step(task: Task) -> None:
    for name in ("weight_rewinding", "lr_rewinding"):
        outcome = run(task, name, RewindingSettings(rewind=0.5, prune_fraction=1), steps=12)
        assert [phase.steps for phase in outcome.phases] == [8, 4]
    whole = run(task, "lottery_ticket", TicketSettings(prune_fraction=1), steps=12)
    assert [phase.steps for phase in whole.phases] == [6, 6]


def test_random_reinit_has_the_mask_but_not_the_weights_of_the_lottery_ticket(task: Task) -> None:
    ticket, fresh = run(task, "lottery_ticket"), run(task, "random_reinit")
    assert ticket.masks == fresh.masks
    assert ticket.initial is not None
    assert fresh.initial is not None
    drawn = fresh_weights(task.base.ref, BUDGET.seed)
    for name, mask in fresh.masks.items():  # pyright: ignore[reportOptionalMemberAccess]
        assert torch.equal(fresh.initial[name], drawn[name])
        assert not torch.equal(fresh.initial[name], ticket.initial[name]), mask.shape


def test_random_tickets_keep_layer_counts_only_if_shuffled_within_layers(task: Task) -> None:
    ticket = run(task, "lottery_ticket").masks
    within = run(task, "random_ticket", RandomTicketSettings(permutation="within")).masks
    across = run(task, "random_ticket").masks
    assert ticket is not None
    assert within is not None
    assert across is not None
    assert within.kept_per_layer() == ticket.kept_per_layer() != across.kept_per_layer()
    assert across.kept == ticket.kept
    assert within != ticket


def test_a_small_dense_network_has_the_tickets_number_of_weights() -> None:
    config = SearchConfig(
        model="cifar_resnet20", pretrained=False, dataset="digits", batch_size=64, val_fraction=0.8, steps=2
    )
    task, _ = open_task(config, None, make_accelerator(seed=0))
    outcome = run(task, "small_dense", sparsity="0.9", steps=2)
    assert outcome.network is not None
    small = dict(outcome.network.named_parameters())
    count = sum(small[name].numel() for name in task.maskable.weights)
    kept = kept_count(sum(task.maskable.sizes.values()), "0.9")
    assert 0.9 * kept <= count <= kept
    assert build_network(task, outcome) is outcome.network
    assert stored_bytes(task, outcome)["weights"] == 4 * sum(weight.numel() for weight in small.values())
    assert cost_of(task, outcome).forward_flops < 0.3 * cost_of(task, run(task, "full_sgd", steps=2)).forward_flops


def test_the_digits_network_can_be_narrower(task: Task) -> None:
    small = run(task, "small_dense", sparsity="0.95", steps=1).network
    assert small is not None
    count = sum(parameter.numel() for name, parameter in small.named_parameters() if name in task.maskable.weights)
    kept = kept_count(sum(task.maskable.sizes.values()), "0.95")
    assert 0.8 * kept <= count <= kept


def test_narrow_networks_keep_to_their_budget(task: Task) -> None:
    ref = task.base.ref.model_copy(update={"architecture": "cifar_vgg19_bn", "num_classes": 10, "in_chans": 3})
    assert narrow_width(ref, ["feature.0.weight"], 27 * 32) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ConfigError, match="resnet18 cannot be made narrower"):
        narrow_width(ref.model_copy(update={"architecture": "resnet18"}), ["conv1.weight"], 100)


def test_too_few_steps_for_the_rounds_are_refused(task: Task) -> None:
    with pytest.raises(ConfigError, match="8 rounds of pruning need at least 9 steps, not 5"):
        run(task, "lottery_ticket", steps=5)
    with pytest.raises(ConfigError, match="not patterns"):
        run(task, "imp", allocation="2:4")


def test_magnitude_correlation_is_p_for_unrelated_weights_and_one_for_equal_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    some, others = ({"a": torch.randn(200, 300, generator=generator)} for _ in range(2))
    masks = MaskSet({"a": torch.rand(200, 300, generator=generator) < 0.5})
    assert magnitude_correlation(some, some, masks) == 1
    permuted = {"a": some["a"].flatten()[torch.randperm(60_000, generator=generator)].reshape(200, 300)}
    for unrelated in (others, permuted):
        assert isclose(magnitude_correlation(some, unrelated, masks, p=0.2), 0.2, abs_tol=0.02)
    assert isclose(magnitude_correlation(some, others, masks, p=0.5), 0.5, abs_tol=0.02)
    top = {"a": some["a"] * (1 + 0.01 * others["a"])}
    assert magnitude_correlation(some, top, masks) > 0.9


def test_the_cost_of_a_dense_step_is_three_forward_passes(task: Task) -> None:
    dense = run(task, "full_sgd", steps=4)
    cost = cost_of(task, dense)
    assert cost.backward_flops == 2 * cost.forward_flops > 0
    assert cost.epochs == {"training": pytest.approx(4 / (len(task.data.train) // 64), abs=1e-3)}
    assert cost_of(task, run(task, "probe", steps=4)).backward_flops == 0
    ticket = cost_of(task, run(task, "imp", FineTunedSettings(prune_fraction=0.6)))
    assert list(ticket.epochs) == ["dense training", "pruning rounds", "training"]
    assert sum(ticket.epochs.values()) == pytest.approx(16 / (len(task.data.train) // 64), abs=1e-2)
    static = cost_of(task, run(task, "static_random", steps=4))
    assert static.forward_flops < cost.forward_flops
    gradual = cost_of(task, run(task, "gradual_magnitude", steps=10))
    assert gradual.epochs == {"training": pytest.approx(10 / (len(task.data.train) // 64), abs=2e-3)}
    assert 10 / 4 * static.forward_flops < gradual.forward_flops < 10 / 4 * cost.forward_flops
    alone = cost_of(task, run(task, "search", method("search").settings(distill_weight=0), steps=4))  # pyright: ignore
    assert alone.backward_flops > 2 * alone.forward_flops  # scores need the gradients of removed weights
    assert static.forward_flops < alone.forward_flops < cost.forward_flops  # the sparsity ramps up
    taught = cost_of(task, run(task, "search", steps=4))
    assert taught.forward_flops - alone.forward_flops == cost.forward_flops  # the teacher's
    assert taught.backward_flops == alone.backward_flops


def test_a_planted_cheat_that_keeps_trained_weights_is_seen(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that do not return to θ₀ give themselves away by their correlation with the trained ones."""
    seen = watch_masks(monkeypatch)
    own = TicketSettings(prune_fraction=1)
    honest = run(task, "lottery_ticket", own)
    monkeypatch.setattr("timm_jackpot.methods.tickets.lottery.back_to", lambda number, early: None)
    cheat = run(task, "lottery_ticket", own)
    assert honest.initial is not None
    assert cheat.initial is not None
    (_, rewound), (_, kept) = seen
    assert all(torch.equal(rewound[n], honest.initial[n] * m) for n, m in honest.masks.items())  # pyright: ignore
    theta = run(task, "lottery_ticket", sparsity="0", steps=1).initial
    assert theta is not None
    assert all(torch.equal(honest.initial[n], theta[n]) for n in honest.masks)  # pyright: ignore
    assert not all(torch.equal(kept[n], theta[n] * m) for n, m in cheat.masks.items())  # pyright: ignore
