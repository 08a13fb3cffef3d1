"""What users do without masks, and the controls of a jackpot with a new head: each changes what it says, no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from timm_jackpot.audit import AuditConfig, audit_jackpot
from timm_jackpot.base import base_from_module, load_base
from timm_jackpot.errors import BaseError
from timm_jackpot.methods import Budget, FixedMaskSettings, Outcome, Task, build_network, method
from timm_jackpot.methods.dense import DenseSettings
from timm_jackpot.methods.lora import LoraSettings
from timm_jackpot.methods.piggyback import PiggybackSettings
from timm_jackpot.methods.references import ReferenceSettings
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.search import SearchConfig, config_of, search_jackpot
from timm_jackpot.search.task import open_task

pytestmark = pytest.mark.usefixtures("few_digits")

SMALL = {"dataset": "digits", "batch_size": 64, "val_fraction": 0.7}
BUDGET = Budget("0.5", "erk", steps=4, seed=0)


def new_base() -> Any:
    """The digits network with its classifier drawn anew, as a module whose head has to be trained."""
    module = load_base("digits_resnet").model
    torch.manual_seed(0)
    module.fc = nn.Linear(module.fc.in_features, 10)  # pyright: ignore
    told: dict[str, Any] = {"num_classes": 10, "input_size": (3, 32, 32), "classifier": "fc", "new_head": True}
    return base_from_module(module, "own", **told)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task(SearchConfig(**SMALL, steps=4), new_base(), make_accelerator(seed=0))[0]


def run(task: Task, name: str, settings: Any = None) -> Outcome:
    return method(name).run(task, BUDGET, settings)


def moved(task: Task, outcome: Outcome) -> dict[str, set[str]]:
    """Role → names of the tensors that differ from the base's."""
    state = task.base.model.state_dict()
    found: dict[str, set[str]] = {}
    for name, (role, tensor) in outcome.changed.items():
        if not torch.equal(state[name], tensor):
            found.setdefault(role, set()).add(name)
    return found


def test_each_reference_trains_what_it_says(task: Task) -> None:
    before = {name: tensor.clone() for name, tensor in task.base.model.state_dict().items()}
    roles = {name: set(moved(task, run(task, name))) for name in ("probe", "probe_statistics", "norm_only", "full_sgd")}
    assert roles["probe"] == {"head"}
    assert roles["probe_statistics"] == {"head", "norm_statistics"}
    assert roles["norm_only"] == {"head", "norm_statistics", "norm_affine"}
    assert roles["full_sgd"] == {"head", "norm_statistics", "norm_affine", "weights"}
    assert all(torch.equal(before[name], tensor) for name, tensor in task.base.model.state_dict().items())


def test_fine_tuning_moves_every_parameter_and_adamw_differs(task: Task) -> None:
    sgd, adamw = run(task, "full_sgd"), run(task, "full_adamw")
    parameters = {name for name, _ in task.base.model.named_parameters()}
    assert parameters <= set.union(*moved(task, adamw).values())
    assert not torch.equal(sgd.changed["conv1.0.weight"].tensor, adamw.changed["conv1.0.weight"].tensor)


def test_a_dense_base_with_a_new_head_is_a_linear_probe(task: Task) -> None:
    dense, probe = run(task, "dense", DenseSettings(lr=0.1)), run(task, "probe", ReferenceSettings(lr=0.1))
    assert dense.steps == probe.steps == 4
    assert dense.changed.keys() == probe.changed.keys()
    assert all(torch.equal(dense.changed[name].tensor, probe.changed[name].tensor) for name in probe.changed)


def test_a_warm_head_counts_as_part_of_the_budget(task: Task) -> None:
    all_warm = run(task, "norm_only", ReferenceSettings(head_steps=4))
    assert set(moved(task, all_warm)) == {"head"}
    assert all_warm.steps == 4


def test_lora_merges_into_the_network_that_was_trained(task: Task) -> None:
    outcome = run(task, "lora", LoraSettings(rank=2, lr=0.01))
    assert set(moved(task, outcome)) == {"head", "norm_statistics", "weights"}
    state = task.base.model.state_dict()
    for name in moved(task, outcome)["weights"]:
        a, b = outcome.factors[name]
        change = outcome.changed[name].tensor - state[name]
        assert a.shape[0] == b.shape[1] == 2
        assert torch.linalg.matrix_rank(change.flatten(1), atol=1e-5) <= 2 * change.shape[2] * change.shape[3]
        product = 2 * torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)  # α / r = 2
        torch.testing.assert_close(change, product, rtol=1e-4, atol=1e-6)
    assert 0 < outcome.extra_flops < 1


def test_lora_leaves_the_head_and_what_attention_reads_itself_alone(task: Task) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = nn.MultiheadAttention(8, 2), nn.Linear(8, 10)

        def get_classifier(self) -> nn.Module:
            return self.fc

    model = Attending()
    weights: Any = {name: p for name, p in model.named_parameters() if name in ("a.out_proj.weight", "fc.weight")}
    own = replace(task, base=replace(task.base, model=model), maskable=replace(task.maskable, weights=weights))
    with pytest.raises(BaseError, match="has no linear or conv layers for LoRA to update"):
        run(own, "lora")


def test_fine_tuning_needs_no_norms_and_no_classifier(task: Task) -> None:
    module = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
    weights: Any = {"0.weight": module[0].weight}
    plain = replace(task, base=replace(task.base, model=module), maskable=replace(task.maskable, weights=weights))
    assert moved(plain, run(plain, "full_sgd")) == {"weights": {"0.weight", "0.bias"}}
    with pytest.raises(BaseError, match="has no classifier to train"):
        run(plain, "probe")


def test_piggyback_removes_weights_whose_scores_fall_below_its_threshold(task: Task) -> None:
    still = run(task, "piggyback")
    assert still.masks is not None
    assert still.masks.sparsity == 0  # four steps of 1e-4 do not reach from 0.01 to 0.005
    far = run(task, "piggyback", PiggybackSettings(lr=0.01))
    assert far.masks is not None
    assert 0.1 < far.masks.sparsity < 0.9
    assert not moved(task, far).keys() & {"weights"}


def test_low_flip_is_the_search_at_one_percent_wherever_it_runs(task: Task) -> None:
    assert config_of("low_flip")().sparsity == "0.01"
    masks = run(task, "low_flip").masks  # with default settings, as compare and audit run it
    assert masks is not None
    assert masks.sparsity == pytest.approx(0.01, abs=1e-3)


def test_controls_train_a_head_as_the_search_does(task: Task) -> None:
    found = run(task, "search")
    judged = replace(task, jackpot=found.masks)
    control = run(judged, "permuted_within", FixedMaskSettings(lr=0.05))
    assert set(moved(task, control)) == {"head", "norm_statistics"}
    network = build_network(task, control)
    assert not torch.equal(network.fc.weight, task.base.model.fc.weight)  # pyright: ignore
    frozen = run(judged, "permuted_within", FixedMaskSettings(lr=1e-12))
    torch.testing.assert_close(frozen.changed["fc.weight"].tensor, task.base.model.state_dict()["fc.weight"])


@pytest.fixture(scope="module")
def with_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a new head and trained norms."""
    folder = tmp_path_factory.mktemp("head") / "j"
    result = search_jackpot(
        SearchConfig(steps=40, sparsity="0.5", output=str(folder), train_norm=True, **SMALL), new_base()
    )
    table = result.summary
    assert table["magnitude_top1"] is None
    assert table["dense_top1"] > 30  # with a trained head: ten classes, and the head alone guesses
    assert table["magnitude_recalibrated_top1"] > 20
    plain = search_jackpot(
        SearchConfig(steps=2, sparsity="0.5", lr=0.4, train_norm=True, output=str(folder.parent / "k"), **SMALL)
    ).summary
    assert plain["dense_top1"] > 95  # the untouched base, whatever the search trains along
    assert plain["magnitude_top1"] is not None
    return folder


def test_a_search_with_a_new_head_is_compared_with_a_probe(with_head: Path) -> None:
    assert with_head.is_dir()


@pytest.mark.slow
def test_a_jackpot_with_a_head_and_norms_is_audited(with_head: Path, tmp_path: Path) -> None:
    config = AuditConfig(artifact=str(with_head), dataset="digits", seeds=1, output=str(tmp_path / "audit"))
    report = audit_jackpot(config, base=new_base().model)
    top1 = {name: result.top1.value for name, result in report.models.items()}
    assert top1["dense"] > 30
    assert top1["random"] > 15  # its head was trained too
    assert top1["second_search"] > 60  # and that of a search from another seed
    assert (tmp_path / "audit" / "audit.json").is_file()
