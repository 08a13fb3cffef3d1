"""Sparse training: counts are exact, zeros stay zero, and masks change as the papers say."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from one_epoch import one_epoch
from torch import Tensor, nn

from timm_jackpot.experiments.rivals.measure import stored_bytes
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import Budget, Outcome, Task, build_network, method
from timm_jackpot.methods.sparse import SparseWeights, drop_and_grow, drop_smallest, grow_largest, share_out
from timm_jackpot.methods.sparse.deep_r import DeepRSettings
from timm_jackpot.methods.sparse.gradual import GradualSettings
from timm_jackpot.methods.sparse.network import Moment
from timm_jackpot.methods.sparse.reparameterization import DsrSettings
from timm_jackpot.methods.sparse.rigl import RigLSettings
from timm_jackpot.methods.sparse.run import SparseTrainingSettings
from timm_jackpot.methods.sparse.set_evolution import SetSettings
from timm_jackpot.methods.start import Start, start_from
from timm_jackpot.runtime.processes import Shard, make_accelerator
from timm_jackpot.search import SearchConfig
from timm_jackpot.search.task import open_task

BUDGET = Budget("0.8", "erk", steps=9, seed=0)
METHODS = (
    *("static_random", "snip_at_init", "grasp_at_init", "gradual_magnitude"),
    *("set", "deep_r", "rigl", "sparse_momentum", "dsr"),
)


def digits_task() -> Task:
    config = SearchConfig(dataset="digits", batch_size=64, val_fraction=0.8, steps=9)
    return open_task(config, None, make_accelerator(seed=0))[0]


@pytest.fixture(scope="module")
def task() -> Task:
    return digits_task()


def run(task: Task, name: str, own: Any = None, **budget: Any) -> Outcome:
    return method(name).run(task, replace(BUDGET, **budget), own)


def counts(outcome: Outcome) -> dict[str, int]:
    assert outcome.masks is not None
    return outcome.masks.kept_per_layer()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_with_exact_counts_and_true_zeros(task: Task, name: str) -> None:
    before = {key: tensor.clone() for key, tensor in task.base.model.state_dict().items()}
    often: dict[str, Any] = {"rigl": RigLSettings(update_interval=3), "dsr": DsrSettings(update_interval=3)}
    own = often.get(name)
    outcome = run(task, name, own)
    assert outcome.masks is not None
    assert outcome.masks.kept == outcome.masks.total - int(outcome.masks.total * 0.8 + 0.5)
    for key, mask in outcome.masks.items():
        weight = outcome.changed[key].tensor
        assert not weight[~mask].any(), key
        assert int(weight.count_nonzero()) > 0.5 * int(mask.sum())  # what has grown in the last step may still be zero
    assert all(torch.equal(before[key], tensor) for key, tensor in task.base.model.state_dict().items())
    again = run(task, name, own)
    assert again.masks == outcome.masks
    network = build_network(task, outcome)
    assert torch.equal(network.state_dict()["fc.weight"], outcome.changed["fc.weight"].tensor)


@pytest.mark.parametrize("name", ["snip_at_init", "grasp_at_init"])
def test_what_is_rated_at_initialization_normalizes_as_in_training(
    task: Task, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated: list[nn.Module] = []

    def noting(criterion: str, on: Task, *args: Any, **settings: Any) -> Start:
        rated.append(on.base.model)
        return start_from(criterion, on, *args, **settings)

    monkeypatch.setattr("timm_jackpot.methods.sparse.at_init.start_from", noting)
    run(task, name)
    spread: list[Tensor] = []
    norm = rated[0].get_submodule("layer2.0.bn1")
    norm.register_forward_hook(lambda module, _, output: spread.append(output.std((0, 2, 3))))
    batch = next(one_epoch(task.data.train, seed=0, epoch=0, batch_size=128, shard=Shard()))
    with torch.no_grad():
        rated[0].eval()(batch.images)
    torch.testing.assert_close(spread[0], torch.ones(48), atol=0.1, rtol=0)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[MaskSet]:
    """The masks after each change of them."""
    seen: list[MaskSet] = []
    replace_masks = SparseWeights.replace_masks

    def watch(self: SparseWeights, masks: Mapping[str, Tensor]) -> None:
        replace_masks(self, masks)
        assert all(not weight.detach()[~self.masks[key]].any() for key, weight in self.weights.items())
        seen.append(MaskSet(self.masks))

    monkeypatch.setattr(SparseWeights, "replace_masks", watch)
    return seen


@pytest.mark.parametrize(("name", "times"), [("set", 2), ("deep_r", 9), ("rigl", 3)])
def test_layers_keep_their_counts_while_masks_change(task: Task, name: str, times: int, changes: list[MaskSet]) -> None:
    outcome = run(task, name, RigLSettings(update_interval=2) if name == "rigl" else None)
    assert outcome.start is not None
    assert len(changes) == times
    assert all(masks.kept_per_layer() == outcome.start.kept_per_layer() for masks in changes)
    assert all(one != other for one, other in itertools.pairwise([outcome.start, *changes]))
    assert changes[-1] == outcome.masks


def test_nothing_dropped_is_the_static_mask_bit_for_bit(task: Task) -> None:
    static = run(task, "static_random", SparseTrainingSettings())
    for name, own in (
        ("rigl", RigLSettings(drop_fraction=0, update_interval=2)),
        ("set", SetSettings(drop_fraction=0)),
    ):
        still = run(task, name, own)
        assert still.masks == static.masks
        assert all(torch.equal(still.changed[key].tensor, entry.tensor) for key, entry in static.changed.items())


def test_a_run_too_short_to_change_its_mask_says_so(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(task, "rigl", steps=2)
    assert outcome.masks == outcome.start
    assert "note: none of the 2 steps changed the mask: it is the one that it began with" in capsys.readouterr().err
    run(task, "rigl", RigLSettings(update_interval=1), steps=4)
    run(task, "static_random", steps=2)
    assert "changed the mask" not in capsys.readouterr().err


def test_zeros_cost_no_bytes(task: Task) -> None:
    outcome = run(task, "static_random", steps=2)
    assert outcome.masks is not None
    others = [t.numel() for n, (role, t) in outcome.changed.items() if role == "weights" and n not in outcome.masks]
    assert stored_bytes(task, outcome)["weights"] == 4 * (outcome.masks.kept + sum(others))


@pytest.mark.parametrize("opt", ["sgd", "adam", "adamw"])
def test_zeros_stay_zero_through_momentum_and_decay(opt: str) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 5))
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    more = {"momentum": 0.9} if opt == "sgd" else {}
    optimizer = kinds[opt]([weight], lr=0.1, weight_decay=0.1, **more)
    seen: list[Tensor] = []

    def update(moment: Moment) -> dict[str, Tensor] | None:
        seen.append(moment.gradients["w"].clone())
        return {"w": moment.masks["w"].roll(1, 0)} if moment.step == 3 else None

    masks = {"w": torch.rand(6, 5) > 0.5}
    sparse = SparseWeights({"w": weight}, masks, optimizer, update)
    for step in range(6):
        optimizer.zero_grad()
        (weight * torch.randn(6, 5)).sum().backward()
        optimizer.step()
        assert not weight.detach()[~sparse.masks["w"]].any(), step
        for average in optimizer.state[weight].values():
            if isinstance(average, Tensor) and average.shape == weight.shape:
                assert not average[~sparse.masks["w"]].any(), step
    assert torch.equal(sparse.masks["w"], masks["w"].roll(1, 0))
    assert all(int(gradient.count_nonzero()) == 30 for gradient in seen)  # methods see the dense gradient


def rigl_in_numpy(weight: np.ndarray, mask: np.ndarray, gradient: np.ndarray, count: int) -> np.ndarray:
    """RigL's update of one layer, ties to the first in C order, written as the paper says it."""
    mask = mask.copy()
    active = np.flatnonzero(mask)
    order = active[np.argsort(np.abs(weight[active]), kind="stable")]
    kept = sorted(order.tolist(), key=lambda i: (-abs(weight[i]), i))[: len(active) - count]
    mask[:] = False
    mask[kept] = True
    free = [i for i in range(len(mask)) if not mask[i]]
    mask[sorted(free, key=lambda i: (-abs(gradient[i]), i))[:count]] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.data())
def test_drop_and_grow_agrees_with_numpy(n: int, seed: int, data: st.DataObject) -> None:
    draw = np.random.default_rng(seed)
    weight, gradient = (draw.integers(-3, 4, n).astype(np.float32) for _ in range(2))  # many ties
    mask = draw.random(n) < 0.5
    weight[~mask] = 0
    count = data.draw(st.integers(0, int(mask.sum())))
    found = drop_and_grow(*map(torch.from_numpy, (weight, mask)), torch.from_numpy(np.abs(gradient)), count)
    assert np.array_equal(found.numpy(), rigl_in_numpy(weight, mask, gradient, count))
    left = drop_smallest(torch.from_numpy(weight), torch.from_numpy(mask), count)
    assert int(left.sum()) == int(mask.sum()) - count
    assert not bool((left & ~torch.from_numpy(mask)).any())
    grown = grow_largest(torch.from_numpy(np.abs(gradient)), left, count)
    assert int((grown & ~left).sum()) == count


def test_gradual_pruning_only_removes(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MaskSet] = []
    hook = SparseWeights._before_step

    def watch(self: SparseWeights, *more: Any) -> None:
        hook(self, *more)
        seen.append(MaskSet(self.masks))

    monkeypatch.setattr(SparseWeights, "_before_step", watch)
    outcome = run(task, "gradual_magnitude", GradualSettings(prune_interval=2))
    assert outcome.start is not None
    assert outcome.start.sparsity == 0
    assert all((later - earlier).kept == 0 for earlier, later in itertools.pairwise(seen)), "none comes back"
    assert len({masks.kept for masks in seen}) == 4  # dense, after steps 2 and 4, and the end of the ramp, 5
    assert seen[-1] == outcome.masks


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), min_size=1, max_size=8), st.data())
def test_what_is_shared_out_is_exact_and_fits(layers: list[tuple[float, int]], data: st.DataObject) -> None:
    shares, room = ({str(i): layer[j] for i, layer in enumerate(layers)} for j in (0, 1))
    total = data.draw(st.integers(0, sum(int(n) for n in room.values())))
    given_out = share_out(total, shares, room)  # pyright: ignore[reportArgumentType]
    assert sum(given_out.values()) == total
    assert all(0 <= given_out[name] <= room[name] for name in room)


def test_shares_are_in_proportion_where_there_is_room() -> None:
    assert share_out(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 100, "b": 100, "c": 100}) == {"a": 6, "b": 2, "c": 2}
    assert share_out(10, {"a": 3.0, "b": 1.0, "c": 1.0}, {"a": 2, "b": 100, "c": 100}) == {"a": 2, "b": 4, "c": 4}
    assert share_out(3, {"a": 0.0, "b": 0.0}, {"a": 1, "b": 5}) == {"a": 0, "b": 3}


@pytest.mark.parametrize("name", ["sparse_momentum", "dsr"])
def test_weights_move_between_layers_and_their_total_stays(task: Task, name: str) -> None:
    own = DsrSettings(update_interval=2, threshold=0.01) if name == "dsr" else None
    outcome = run(task, name, own)
    assert outcome.masks is not None
    assert outcome.start is not None
    assert outcome.masks.kept == outcome.start.kept
    assert counts(outcome) != outcome.start.kept_per_layer()


@pytest.mark.parametrize("opt", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["set", "deep_r", "rigl"])
def test_zeros_stay_zero_in_mixed_precision(
    name: str, opt: Any, changes: list[MaskSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test here: it takes the accelerator from under `task`."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    try:
        task = digits_task()
        assert task.accelerator.mixed_precision == "bf16"
        kinds: dict[str, Any] = {"set": SetSettings, "deep_r": DeepRSettings, "rigl": RigLSettings}
        more = {"update_interval": 2} if name == "rigl" else {}
        outcome = run(task, name, kinds[name](opt=opt, lr=0.1 if opt == "sgd" else 1e-3, **more), steps=5)
    finally:
        monkeypatch.undo()
        AcceleratorState._reset_state(True)
    assert changes  # whose zeros the fixture has checked
    assert outcome.masks is not None
    for key, mask in outcome.masks.items():
        weight = outcome.changed[key].tensor
        assert weight.dtype == torch.float32
        assert not weight[~mask].any()
        assert weight[mask].any()
