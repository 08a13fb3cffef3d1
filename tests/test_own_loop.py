"""A mask search in a training loop of one's own: `get_jackpot_model`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from timm_jackpot import JackpotConfig, equalise_gradients, from_pretrained, get_jackpot_model, load_base
from timm_jackpot.artifact import read_artifact
from timm_jackpot.errors import BaseError, ConfigError, TrainingError
from timm_jackpot.masks import MaskSet, allocate, keep_largest
from timm_jackpot.own_loop import TrainableJackpot


def digits() -> nn.Module:
    return timm.create_model("digits_resnet", pretrained=True)


def batch(size: int = 8, classes: int = 10, n: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, size, size), torch.randint(classes, (n,))


def train(model: TrainableJackpot, steps: int, data: tuple[Tensor, Tensor], lr: float = 0.05) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    equalise_gradients(optimizer, model.scores())
    model.train()
    for _ in range(steps):
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.step()


def test_before_any_step_it_is_the_magnitude_mask_at_the_asked_sparsity() -> None:
    model = get_jackpot_model(digits(), JackpotConfig(sparsity=0.5, steps=100))
    masks, weights = model.masks(), load_base("digits_resnet").model.state_dict()
    magnitudes = {name: weights[name].abs() for name in masks}
    kept = allocate("erk", magnitudes, "0.5", minimum=1)
    assert masks.kept == masks.total - int(masks.total * 0.5 + 0.5)
    assert masks == MaskSet({name: keep_largest(values, kept[name]) for name, values in magnitudes.items()})
    plain = model.merge_and_unload()
    assert type(plain) is type(digits())
    assert list(plain.state_dict()) == list(weights)
    assert all(torch.equal(plain.state_dict()[name], weights[name] * mask) for name, mask in masks.items())


def test_a_timm_model_is_trained_saved_and_loaded_by_its_name(tmp_path: Path) -> None:
    model = get_jackpot_model(digits(), JackpotConfig(sparsity=0.8, steps=20))
    before = model.masks()
    train(model, 20, batch())
    masks = model.masks()
    assert masks != before
    assert all(layer.kept == masks.kept_per_layer()[name] for name, layer in model._training.adapter.items())
    folder = model.save_pretrained(tmp_path / "jackpot")
    artifact = read_artifact(folder)
    assert {extra.role for extra in artifact.config.extras} == {"norm_statistics"}
    loaded, plain = from_pretrained(folder), model.merge_and_unload().eval()
    images, _ = batch()
    assert torch.equal(loaded(images), plain(images))


def test_the_sparsity_rises_over_the_steps_that_were_given() -> None:
    model = get_jackpot_model(digits(), JackpotConfig(sparsity="0.9", steps=20, refresh_interval=1))
    sparsities = []
    for _ in range(20):
        model.step()
        sparsities.append(model._training.sparsity)
    assert sparsities == sorted(sparsities)
    assert sparsities[0] < 0.3
    assert sparsities[-1] == pytest.approx(0.9, abs=1e-3)
    assert get_jackpot_model(digits(), JackpotConfig())._training.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_new_head_of_a_timm_model_is_found_trained_and_stored(tmp_path: Path) -> None:
    net = digits()
    net.fc = nn.Linear(net.num_features, 3)  # pyright: ignore
    model = get_jackpot_model(net, JackpotConfig(sparsity=0.5, class_names=("a", "b", "c")))
    head = net.fc.weight.detach().clone()
    train(model, 3, batch(classes=3))
    assert not torch.equal(net.fc.weight, head)
    folder = model.save_pretrained(tmp_path / "jackpot")
    config = read_artifact(folder).config
    assert config.head is not None
    assert config.head.labels == ["a", "b", "c"]
    loaded, plain = from_pretrained(folder), model.merge_and_unload().eval()
    images, _ = batch()
    assert loaded.num_classes == 3
    assert torch.equal(loaded(images), plain(images))


@pytest.mark.parametrize("width", [3, 10])
def test_a_new_head_is_trained_whatever_its_width_and_its_values(tmp_path: Path, width: int) -> None:
    net = digits()
    net.fc = nn.Linear(net.num_features, width)  # pyright: ignore
    nn.init.zeros_(net.fc.weight)
    model = get_jackpot_model(net, JackpotConfig(sparsity=0.5))
    train(model, 3, batch(classes=width))
    assert net.fc.weight.count_nonzero()
    folder = model.save_pretrained(tmp_path / "jackpot")
    images, _ = batch()
    assert torch.equal(from_pretrained(folder)(images), model.merge_and_unload().eval()(images))


@pytest.mark.parametrize("hidden", [False, True])
def test_a_torchvision_model_brings_itself_and_its_head_is_trained(
    tmp_path: Path, hidden: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    net = resnet18()
    net.fc = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 10)) if hidden else nn.Linear(512, 10)  # pyright: ignore
    if not hidden:
        nn.init.trunc_normal_(net.fc.weight, std=0.02)
    module = copy.deepcopy(net)
    model = get_jackpot_model(net, JackpotConfig(sparsity=0.5))
    assert (
        f"Its classifier {'fc.0 and fc.2' if hidden else 'fc'} (10 classes) will be trained" in capsys.readouterr().err
    )
    train(model, 2, batch(size=32))
    folder = model.save_pretrained(tmp_path / "jackpot")
    config = read_artifact(folder).config
    assert {extra.role for extra in config.extras} == {"norm_statistics", "head"}
    assert not any(layer.name.startswith("fc") for layer in config.layers)
    loaded, plain = from_pretrained(folder, base=module), model.merge_and_unload().eval()
    images, _ = batch(size=32)
    assert torch.equal(loaded(images), plain(images))


def test_what_is_evaluated_is_what_is_saved(tmp_path: Path) -> None:
    model = get_jackpot_model(digits(), JackpotConfig(sparsity=0.8))
    train(model, 7, batch())  # thresholds were not due since the start
    images, _ = batch()
    live = model.eval()(images)
    torch.testing.assert_close(live, from_pretrained(model.save_pretrained(tmp_path / "jackpot"))(images))


def test_a_copy_trains_by_itself() -> None:
    model = get_jackpot_model(digits(), JackpotConfig(sparsity=0.8, steps=20))
    twin = copy.deepcopy(model)
    train(twin, 4, batch())
    assert twin.masks() != model.masks()
    assert model._training.sparsity == get_jackpot_model(digits(), JackpotConfig(steps=20))._training.sparsity


def test_nan_scores_and_merged_models_are_named(tmp_path: Path) -> None:
    model = get_jackpot_model(digits())
    with torch.no_grad():
        model.scores()[0].fill_(torch.nan)
    with pytest.raises(TrainingError, match="scores have become NaN: lower the learning rate"):
        model.save_pretrained(tmp_path / "jackpot")
    model = get_jackpot_model(digits())
    model.merge_and_unload()
    for call in (model.step, model.masks, model.merge_and_unload, lambda: model.save_pretrained(tmp_path / "jackpot")):
        with pytest.raises(BaseError, match="were merged into the model"):
            call()


def test_weights_that_are_not_the_published_ones_are_a_base_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    net = digits()
    with torch.no_grad():
        next(net.parameters()).mul_(2)
    model = get_jackpot_model(net)
    assert model.jackpot().base.ref.source == "module"
    assert "differs from the published weights of digits_resnet" in capsys.readouterr().err


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_forgotten_step_is_noticed(optimizer_class: type[torch.optim.Optimizer]) -> None:
    model = get_jackpot_model(digits()).train()
    optimizer = optimizer_class(model.scores(), lr=0.01)
    images, labels = batch()
    F.cross_entropy(model(images), labels).backward()
    F.cross_entropy(model(images), labels).backward()  # gradients may be accumulated
    optimizer.step()
    with pytest.raises(TrainingError, match=r"call it once after each optimizer\.step\(\)"):
        model(images)
    assert model.eval()(images).shape == (8, 10)
    model.train().step()
    model(images)


def test_a_changed_weight_is_not_saved_as_a_jackpot(tmp_path: Path) -> None:
    model = get_jackpot_model(digits())
    with torch.no_grad():
        next(p for n, p in model.model.named_parameters() if n.endswith("original")).mul_(2)
    with pytest.raises(BaseError, match="has changed: a jackpot trains scores"):
        model.save_pretrained(tmp_path / "jackpot")
    assert not (tmp_path / "jackpot").exists()


def test_a_loop_goes_on_from_its_state_dict() -> None:
    data = batch()
    whole = get_jackpot_model(digits(), JackpotConfig(steps=12, refresh_interval=1))
    train(whole, 7, data)
    state = copy.deepcopy(whole.state_dict())
    train(whole, 5, data)
    resumed = get_jackpot_model(digits(), JackpotConfig(steps=12, refresh_interval=1))
    resumed.load_state_dict(state)
    assert resumed._training.sparsity > 0.5
    train(resumed, 5, data)
    assert resumed.masks() == whole.masks()


def test_frozen_statistics_stay_and_norms_may_be_trained() -> None:
    model = get_jackpot_model(digits(), JackpotConfig(freeze_norm_statistics=True, train_norm=True))
    train(model, 2, batch())
    assert {extra.role for extra in model.jackpot().extras.values()} == {"norm_affine"}


def test_what_cannot_be_masked_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="class_names has 2 names, but the model has 10 classes"):
        get_jackpot_model(digits(), JackpotConfig(class_names=("a", "b")))
    with pytest.raises(BaseError, match="already carries masks"):
        get_jackpot_model(get_jackpot_model(digits()).model)
    with pytest.raises(BaseError, match="no linear layer to be its classifier"):
        get_jackpot_model(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(ConfigError, match="did you mean"):
        JackpotConfig(sparsty=0.5)  # pyright: ignore


def test_trainable_parameters_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    model = get_jackpot_model(digits())
    model.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {model.masks().total:,d} || all params: ")
