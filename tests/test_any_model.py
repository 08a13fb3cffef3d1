"""Networks that the package has never heard of, and what people do with models besides training them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models import reparameterize_model
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18

from timm_jackpot import JackpotModel, SearchConfig, base_from_module, from_pretrained, search_jackpot, zero_fractions
from timm_jackpot.adapter import adapter_of, attach, detach, merge
from timm_jackpot.artifact import read_artifact
from timm_jackpot.base import Base, build_skeleton, load_base, maskable_weights
from timm_jackpot.errors import ArtifactError, BaseError, BaseMismatchError, ConfigError, DataError
from timm_jackpot.masks import MaskSet, keep_largest
from timm_jackpot.methods import find_maskable
from timm_jackpot.methods.find import find_masks


class OwnStandardisedConv(nn.Conv2d):
    """Standardises its weight after reading it, under a name that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class Unheard(nn.Module):
    """A tied pair, a functionally read weight, two weights that are altered on the way, one read past `.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.own = OwnStandardisedConv(16, 16, 3)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.read = nn.Linear(16, 16)
        self.softmaxed = nn.Linear(16, 16)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.unread = nn.Linear(4, 4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.stem(x).relu()).relu().mean((2, 3))
        x = x + self.second(self.first(x).relu())
        x = x + F.linear(x, self.read.weight.to(x.dtype), self.read.bias)
        x = x + F.linear(x, self.softmaxed.weight.softmax(1))
        return self.head(x + self.recurrent(x[:, None])[0][:, 0])


MASKED = ["stem.weight", "first.weight", "read.weight"]


def unheard(seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return Unheard().eval()


def images(n: int = 2, size: int = 32) -> Tensor:
    return torch.randn(n, 3, size, size)


def random_masks(model: nn.Module, density: float = 0.3, **which: object) -> MaskSet:
    weights = maskable_weights(model, **which).weights  # pyright: ignore
    return MaskSet({n: keep_largest(torch.rand(w.shape), round(density * w.numel())) for n, w in weights.items()})


def attach_random(model: nn.Module, density: float = 0.3) -> dict[str, int]:
    weights = maskable_weights(model).weights
    kept = {name: round(density * weight.numel()) for name, weight in weights.items()}
    attach(model, {name: torch.rand(weight.shape) for name, weight in weights.items()}, kept)
    return kept


# -- a network nobody knows -------------------------------------------------------------------------


def test_every_weight_of_an_unheard_network_is_masked_or_named() -> None:
    model = unheard()
    maskable = maskable_weights(base_from_module(model, "unheard", num_classes=10, classifier="head").model)
    assert "own.weight" in maskable.weights, "without images nothing can be known of it"

    maskable = maskable_weights(model, images=images())
    assert list(maskable.weights) == MASKED
    assert maskable.aliases == {"second.weight": "first.weight"}
    reasons = dict(maskable.dense)
    assert reasons["own.weight"] == "altered by sub before it is used: its zeros would not stay zero"
    assert reasons["softmaxed.weight"].startswith("altered by softmax")
    assert reasons["unread.weight"] == "no product in the forward pass uses it visibly"
    assert reasons["recurrent.weight_ih_l0"] == "weight_ih_l0 of LSTM, not the weight of a conv or linear layer"
    assert reasons["head.weight"] == "classifier"
    covered = {*maskable.weights, *maskable.aliases, *reasons}
    assert {n for n, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1} == covered


def test_reading_the_weights_leaves_a_model_as_it_was() -> None:
    model = unheard().train()
    model.own.eval()  # pyright: ignore
    before = copy.deepcopy(model.state_dict())
    maskable_weights(model, images=images())
    assert model.training
    assert not model.own.training  # pyright: ignore
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_module_is_searched_saved_and_loaded(tmp_path: Path) -> None:
    base = base_from_module(unheard(), "unheard", num_classes=10, input_size=(3, 32, 32), classifier="head")
    config = SearchConfig(dataset="digits", sparsity="0.5", steps=3, batch_size=64, output=str(tmp_path / "jackpot"))
    result = search_jackpot(config, base)
    assert list(result.jackpot.masks) == MASKED
    assert result.summary["model"] == "unheard"

    x = images()
    loaded = from_pretrained(tmp_path / "jackpot", base=unheard())
    with torch.no_grad():
        assert torch.equal(loaded(x), merge(unheard(), result.jackpot.masks)(x))
    assert loaded.pretrained_cfg["input_size"] == (3, 32, 32)  # pyright: ignore
    card = (tmp_path / "jackpot" / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained(".", base=module)' in card

    with pytest.raises(BaseError, match=r"stem\.weight differs first"):
        from_pretrained(tmp_path / "jackpot", base=unheard(seed=8))
    with pytest.raises(ConfigError, match="so the setting model has no effect"):
        search_jackpot(config.model_copy(update={"model": "resnet18"}), base)


def test_a_module_needs_a_name_and_layers_that_exist() -> None:
    with pytest.raises(BaseError, match="no layer 'fc'"):
        base_from_module(unheard(), "unheard", num_classes=10, classifier="fc")
    with pytest.raises(BaseError, match="architecture"):
        base_from_module(unheard(), "../unheard", num_classes=10)


def renewed(model: nn.Module, layer: str, seed: int) -> nn.Module:
    """The same module with a last layer of ten outputs, just drawn."""
    torch.manual_seed(seed)
    setattr(model, layer, nn.Linear(model.get_submodule(layer).in_features, 10))  # pyright: ignore
    return model.eval()


def a_resnet() -> nn.Module:
    torch.manual_seed(7)
    return resnet18(num_classes=100).eval()


@pytest.mark.parametrize(("build", "layer"), [(unheard, "head"), (a_resnet, "fc")], ids=["unheard", "resnet18"])
def test_a_new_head_of_a_module_is_trained_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], layer: str
) -> None:
    told = {"num_classes": 10, "input_size": (3, 32, 32), "classifier": layer, "new_head": True}
    base, other = (base_from_module(renewed(build(), layer, seed), "own", **told) for seed in (1, 2))
    assert base.ref.digest == other.ref.digest, "the values of a new head are nobody's"
    drawn = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    teachers: list[nn.Module | None] = []

    def watched(*args: Any, **kwargs: Any) -> MaskSet:
        teachers.append(kwargs["teacher"])
        return find_masks(*args, **kwargs)

    monkeypatch.setattr("timm_jackpot.methods.mask_search.find_masks", watched)
    config = SearchConfig(dataset="digits", sparsity="0.5", steps=4, batch_size=64, output=str(tmp_path / "jackpot"))
    result = search_jackpot(config, base)
    assert teachers == [None]
    assert result.comparison.magnitude is None
    artifact = read_artifact(tmp_path / "jackpot")
    head = {f"{layer}.weight", f"{layer}.bias"}
    assert artifact.config.head is not None
    assert set(artifact.config.head.names) == set(artifact.config.info["adapted"]) == head
    assert all(not torch.equal(artifact.extras[name], drawn[name]) for name in head)
    assert f"{layer}.weight" not in result.jackpot.masks

    x, searched = images(), result.model
    with torch.no_grad():
        for seed in (3, 4):
            loaded = from_pretrained(tmp_path / "jackpot", base=renewed(build(), layer, seed))
            assert torch.equal(loaded(x), searched(x))
        model = JackpotModel.from_pretrained(tmp_path / "jackpot", base=renewed(build(), layer, 5))
        assert torch.equal(model(x), searched(x))
    odd = renewed(build(), layer, 3)
    setattr(odd, layer, nn.Linear(odd.get_submodule(layer).in_features, 7))  # pyright: ignore
    with pytest.raises(
        BaseMismatchError, match=rf"{layer}\.weight of shape \(10, \d+\), but the base has \(7, \d+\): give the base a"
    ):
        from_pretrained(tmp_path / "jackpot", base=odd)


def test_an_artifact_brings_every_tensor_of_a_new_head(tmp_path: Path) -> None:
    told = {"num_classes": 10, "input_size": (3, 32, 32), "classifier": "head"}
    base = base_from_module(unheard(), "unheard", new_head=True, **told)
    search_jackpot(SearchConfig(dataset="digits", steps=1, batch_size=64, output=str(tmp_path / "j")), base)
    config = json.loads((tmp_path / "j" / "config.json").read_text())
    config["info"]["adapted"].append("stem.bias")
    (tmp_path / "j" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"lacks stem\.bias, which info\.adapted names"):
        from_pretrained(tmp_path / "j", base=unheard())


def test_a_new_head_has_parameters() -> None:
    model = unheard()
    model.idle = nn.Identity()
    for classifier in ((), "idle"):
        with pytest.raises(BaseError, match="new_head needs the name of the new layer"):
            base_from_module(model, "unheard", num_classes=10, classifier=classifier, new_head=True)


def test_the_way_to_a_new_head_of_a_module_is_told(tmp_path: Path) -> None:
    told = {"input_size": (3, 32, 32), "classifier": "head"}
    config = SearchConfig(dataset="digits", steps=1, output=str(tmp_path / "j"))
    with pytest.raises(DataError, match=r"has 10 classes.* replace the module's last layer .* new_head=True"):
        search_jackpot(config, base_from_module(unheard(), "unheard", num_classes=7, **told))
    base = base_from_module(unheard(), "unheard", num_classes=10, **told)
    with pytest.raises(
        ConfigError, match=r"num_classes has no effect: .*replace the module's last layer and pass new_head=True"
    ):
        search_jackpot(SearchConfig(num_classes=10, output=str(tmp_path / "j")), base)
    with pytest.raises(ConfigError, match=r"num_classes has no effect: .*load_base"):
        search_jackpot(SearchConfig(num_classes=10, output=str(tmp_path / "j")), load_base("digits_resnet"))
    assert not (tmp_path / "j").exists()


@pytest.mark.slow
def test_a_head_that_only_guesses_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], digits_base: Base
) -> None:
    config = SearchConfig(dataset="digits", steps=1, batch_size=64)

    def noticed(base: Base, output: str) -> bool:
        search_jackpot(config.model_copy(update={"output": str(tmp_path / output)}), base)
        return "no better than guessing: if its last layer is new, pass new_head=True" in capsys.readouterr().err

    def own(model: nn.Module, **told: Any) -> Base:
        layer = "head" if isinstance(model, Unheard) else "fc"
        return base_from_module(model, "own", num_classes=10, input_size=(3, 32, 32), classifier=layer, **told)

    assert noticed(own(unheard()), "guesses")
    assert not noticed(own(unheard(), new_head=True), "told")
    assert not noticed(own(digits_base.model, mean=(0.5,) * 3, std=(0.5,) * 3), "trained")


def torchvision_vit() -> nn.Module:
    model = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    nn.init.normal_(model.heads.head.weight)  # zeros at first, through which nothing learns
    return model


@pytest.mark.parametrize("build", [lambda: resnet18(num_classes=10), torchvision_vit], ids=["resnet18", "vit"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_torchvision_models_need_no_timm(build: Callable[[], nn.Module], training: bool) -> None:
    model = build().train(training)
    plain, x = copy.deepcopy(model), images()
    masks = random_masks(model, images=x)
    assert all(name in dict(model.named_parameters()) for name in masks)
    attach(model, {n: m.float() for n, m in masks.items()}, masks.kept_per_layer())
    with torch.no_grad():
        torch.testing.assert_close(model(x), merge(plain, masks)(x))  # attention picks its kernel by alignment
    F.cross_entropy(model(x), torch.tensor([0, 1])).backward()
    assert all(score.grad is not None and score.grad.any() for score in adapter_of(model).scores())


def test_a_packed_attention_projection_is_masked() -> None:
    names = list(maskable_weights(torchvision_vit(), images=images()).weights)
    assert [name for name in names if name.endswith("in_proj_weight")] == [
        f"encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight" for i in range(2)
    ]


# -- patterns ---------------------------------------------------------------------------------------


def test_patterns_choose_among_the_maskable_weights() -> None:
    model = timm.create_model("test_resnet")
    every = list(maskable_weights(model).weights)
    only = maskable_weights(model, include=["layer1.*"])
    assert list(only.weights) == [name for name in every if name.startswith("layer1.")]
    assert dict(only.dense)[every[0]] == "not included"
    rest = maskable_weights(model, include=["layer*"], exclude=["*.downsample.*"])
    assert list(rest.weights) == [n for n in every if n.startswith("layer") and "downsample" not in n]
    assert [reason for name, reason in rest.dense if "downsample" in name] == ["excluded"] * sum(
        "downsample" in name for name in every
    )


def test_a_pattern_by_the_second_name_of_a_tied_weight() -> None:
    maskable = maskable_weights(unheard(), exclude=["second.weight"])
    assert "first.weight" not in maskable.weights
    assert dict(maskable.dense)["first.weight"] == "excluded"
    assert dict(maskable.dense)["second.weight"] == "tied to first.weight"


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("layer9.*", r"--exclude 'layer9\.\*' matches no maskable weight: the nearest are layer"),
        ("fc.weight", r"fc\.weight is left dense anyway \(classifier\)"),
    ],
)
def test_a_pattern_without_a_match_names_the_nearest(pattern: str, sentence: str) -> None:
    with pytest.raises(BaseError, match=sentence):
        maskable_weights(timm.create_model("test_resnet"), exclude=[pattern])


def test_an_artifact_of_a_part_of_the_layers_loads(tmp_path: Path) -> None:
    config = SearchConfig(sparsity="0.5", steps=2, batch_size=64, exclude=("layer1.*",), output=str(tmp_path / "j"))
    result = search_jackpot(config)
    assert not any(name.startswith("layer1.") for name in result.jackpot.masks)
    weights = dict(from_pretrained(tmp_path / "j").named_parameters())
    assert all(weights[name].all() for name in weights if name.startswith("layer1.") and "conv" in name)
    assert all(torch.equal(weights[name] != 0, mask) for name, mask in result.jackpot.masks.items())


# -- layers that other code makes one of ------------------------------------------------------------


def test_fusing_masked_branches_is_refused_while_masks_are_attached() -> None:
    model = timm.create_model("repvgg_a0", num_classes=10).eval()
    attach_random(model)
    with pytest.raises(BaseError, match=r"RepVggBlock\.reparameterize\(\) would sum masked branches"):
        reparameterize_model(model)
    detach(model)
    assert not any("reparameterize" in vars(module) for module in model.modules())
    reparameterize_model(model)


def test_the_sparsity_that_fusing_leaves_is_reported() -> None:
    model = timm.create_model("repvgg_a0", num_classes=10).eval()
    merge(model, random_masks(model, density=0.1))
    fractions = zero_fractions(model)
    assert fractions.pop("head.fc.weight") == 0
    assert all(abs(fraction - 0.9) < 0.02 for fraction in fractions.values())
    fused = zero_fractions(reparameterize_model(model))
    # 3 × 3 kernels: the centre is the sum of three branches, the border is one branch's.
    assert fused["stages.0.0.reparam_conv.weight"] == pytest.approx(8 / 9 * 0.9 + 1 / 9 * 0.81, abs=0.02)


# -- what people do with models ---------------------------------------------------------------------


def loss_and_gradients(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = F.cross_entropy(run(x).float(), torch.arange(len(x)))
    return loss.detach(), list(torch.autograd.grad(loss, adapter_of(model).scores()))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_compiled_in_one_graph_that_follows_the_masks(name: str) -> None:
    model = timm.create_model(name, img_size=32, num_classes=10) if name == "test_vit" else timm.create_model(name)
    model.eval()
    kept = attach_random(model)
    x = images()
    torch._dynamo.reset()
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph

    compiled = torch.compile(model, backend=backend, fullgraph=True)  # fullgraph: a break is an error
    loss, gradients = loss_and_gradients(model, compiled, x)
    expected, theirs = loss_and_gradients(model, model, x)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients, theirs)

    with torch.no_grad():
        for scores in adapter_of(model).scores():
            scores.neg_()
    adapter_of(model).refresh(kept)
    after, _ = loss_and_gradients(model, compiled, x)
    torch.testing.assert_close(after, loss_and_gradients(model, model, x)[0])
    assert not torch.equal(after, loss)
    assert graphs == 1, "new masks are new values, not a new graph"


@pytest.mark.slow  # a minute in the compiler
def test_a_compiled_search_runs_under_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    torch._dynamo.reset()
    config = SearchConfig(steps=20, torchcompile=True, output=str(tmp_path / "j"))
    assert search_jackpot(config).summary["jackpot_top1"] > 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_under_autocast_masks_hold_and_scores_learn_in_float32(dtype: torch.dtype) -> None:
    model = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    plain = copy.deepcopy(model)
    attach_random(model)
    x = images()
    with torch.autocast("cpu", dtype=dtype):
        _, gradients = loss_and_gradients(model, model, x)
        with torch.no_grad():
            assert torch.equal(model(x), merge(plain, adapter_of(model).masks())(x))
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_recomputed_activations_give_the_same_gradients(name: str) -> None:
    model = timm.create_model(name, img_size=32) if name == "test_vit" else timm.create_model(name)
    model.eval().requires_grad_(False)
    attach_random(model)
    x = images()
    expected = loss_and_gradients(model, model, x)
    model.set_grad_checkpointing(True)  # pyright: ignore
    torch.testing.assert_close(loss_and_gradients(model, model, x), expected)


def test_grad_checkpointing_by_flag_and_refused_where_there_is_none(tmp_path: Path) -> None:
    settings = {"dataset": "digits", "steps": 2, "batch_size": 32, "grad_checkpointing": True}
    search_jackpot(SearchConfig(output=str(tmp_path / "j"), **settings))  # pyright: ignore
    base = base_from_module(unheard(), "unheard", num_classes=10, input_size=(3, 32, 32), classifier="head")
    with pytest.raises(ConfigError, match="Unheard cannot recompute activations: leave --grad-checkpointing out"):
        search_jackpot(SearchConfig(output=str(tmp_path / "k"), **settings), base)  # pyright: ignore


def merged_vit() -> nn.Module:
    model = timm.create_model("test_vit", img_size=32, num_classes=10).eval()
    return merge(model, random_masks(model))


def test_a_merged_model_exports_and_pickles() -> None:
    model, x = merged_vit(), images()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)


def test_a_deep_copy_of_an_attached_model_is_its_own() -> None:
    model = timm.create_model("test_resnet").eval()
    kept = attach_random(model)
    twin, x = copy.deepcopy(model), images()
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))
        for scores in adapter_of(twin).scores():
            scores.neg_()
        adapter_of(twin).refresh(kept)
        assert not torch.equal(twin(x), model(x))
        assert adapter_of(twin).masks().kept_per_layer() == kept
    detach(twin)
    assert adapter_of(model).masks().kept_per_layer() == kept


def test_an_average_over_steps_follows_scores_and_keeps_zeros() -> None:
    model = timm.create_model("test_resnet").eval()
    kept = attach_random(model)
    ema = ModelEmaV3(model, decay=0.5)
    first = [scores.detach().clone() for scores in adapter_of(model).scores()]
    with torch.no_grad():
        for scores in adapter_of(model).scores():
            scores.add_(1.0)
    ema.update(model)
    averaged = adapter_of(ema.module)
    assert all(torch.allclose(scores, start + 0.5) for scores, start in zip(averaged.scores(), first, strict=True))
    averaged.refresh(kept)
    assert averaged.masks().kept_per_layer() == kept

    merged = merged_vit()
    zeros = zero_fractions(merged)
    ema = ModelEmaV3(merged, decay=0.9)
    ema.update(merged)
    assert zero_fractions(ema.module) == zeros


def test_a_plain_model_carries_no_adapter() -> None:
    with pytest.raises(BaseError, match="has no score masks"):
        adapter_of(timm.create_model("test_resnet"))


@pytest.mark.parametrize("name", ["nf_resnet26", "nf_ecaresnet26"])  # the second has tiny convs in its attention
def test_a_network_of_weight_standardised_layers_is_refused_by_name(name: str) -> None:
    base = base_from_module(timm.create_model(name), name, num_classes=1000, input_size=(3, 64, 64))
    with pytest.raises(BaseError, match=rf"{name} cannot be masked: .*stem\.conv\.weight and 28 more"):
        find_maskable(SearchConfig(), base, (3, 64, 64), allocation="erk")


# -- timm's hard cases, by name ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("deit_tiny_distilled_patch16_224", ["head.weight", "head_dist.weight"]),
        ("crossvit_tiny_240", ["head.0.weight", "head.1.weight"]),
        ("volo_d1_224", ["aux_head.weight", "head.weight"]),
        ("dpn68", ["classifier.weight"]),  # a conv
        ("caformer_s18", ["head.fc.fc1.weight", "head.fc.fc2.weight"]),
        ("efficientvit_b0", ["head.classifier.4.weight"]),
    ],
)
def test_classifiers_of_every_kind_stay_dense(name: str, classifiers: list[str]) -> None:
    model = build_skeleton(name, {})
    assert [weight for weight, reason in maskable_weights(model).dense if reason == "classifier"] == classifiers
    assert set(classifiers) <= set(maskable_weights(model, mask_classifier=True).weights)


@pytest.mark.parametrize(
    ("name", "weight", "reason"),
    [
        ("sequencer2d_s", "stages.0.blocks.0.rnn_tokens.rnn_v.weight_ih_l0", "weight_ih_l0 of LSTM"),
        ("vit_tiny_r_s16_p8_224", "patch_embed.backbone.conv.weight", "weight-standardized"),  # a hybrid
        ("efficientnet_cc_b0_4e", "blocks.4.0.conv_pw.weight", "weight of CondConv2d"),
        ("swinv2_tiny_window8_256", "patch_embed.proj.weight", ""),
        ("beit_base_patch16_224", "blocks.0.attn.qkv.weight", ""),
        ("convnext_atto", "stages.0.blocks.0.conv_dw.weight", ""),  # depthwise
        ("resnext50_32x4d", "layer1.0.conv2.weight", ""),  # grouped
    ],
)
def test_hard_cases_are_masked_or_named(name: str, weight: str, reason: str) -> None:
    maskable = maskable_weights(build_skeleton(name, {}))
    assert (weight in maskable.weights) == (not reason)
    assert dict(maskable.dense).get(weight, "").startswith(reason)


@pytest.mark.parametrize(
    ("name", "changes", "kwargs"),
    [
        ("test_resnet", {"in_chans": 1, "num_classes": 10}, {}),
        ("test_vit", {"img_size": 32, "num_classes": 10}, {}),
        ("test_vit", {"img_size": 32, "num_classes": 10}, {"class_token": True, "global_pool": "avg"}),
        ("test_efficientnet", {"num_classes": 10}, {"pad_type": "same", "bn_eps": 1e-3}),
    ],
)
def test_other_heads_channels_sizes_and_arguments_are_recorded_and_restored(
    name: str, changes: dict[str, int], kwargs: dict[str, str | float | bool], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    weights = tmp_path / "base.safetensors"
    save_file({n: t.contiguous() for n, t in timm.create_model(name, **kwargs).state_dict().items()}, weights)
    pairs = tuple(f"{key}={value}" for key, value in kwargs.items())
    config = SearchConfig(
        model=name,
        base_checkpoint=str(weights),
        model_kwargs=pairs,
        dataset="digits",
        steps=2,
        batch_size=16,
        sparsity="0.5",
        output=str(tmp_path / "j"),
        **{"img_size": 32, **changes},  # pyright: ignore
    )
    result = search_jackpot(config)
    ref = read_artifact(tmp_path / "j").config.base
    assert ref.model_kwargs == kwargs
    assert ref.in_chans == changes.get("in_chans", 3)
    model = from_pretrained(tmp_path / "j", base_checkpoint=weights)
    x = torch.randn(2, ref.in_chans, 32, 32)
    searched = result.model
    with torch.no_grad():
        assert torch.equal(model(x), searched(x))
    changed = load_file(weights)
    changed[list(result.jackpot.masks)[-1]].view(-1)[0] += 1  # the first may be a stem that timm adapted
    save_file(changed, weights)
    with pytest.raises(BaseMismatchError, match="this is not the base of the mask"):
        from_pretrained(tmp_path / "j", base_checkpoint=weights)


# -- what a sceptical reader found ------------------------------------------------------------------


class Layer(nn.Module):
    """One linear layer, read as `read` says."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.f, self.read = nn.Linear(12, 12), read

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x.flatten(1)[:, :12], self.f.weight)


def overwrite_first(x: Tensor, w: Tensor) -> Tensor:
    w = w.clone()
    w[:, 0] = 1
    return F.linear(x, w)


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (overwrite_first, "altered by setitem"),
        (lambda x, w: x @ (torch.ones(12, 12) / w), "altered by division by it"),
        (lambda x, w: F.linear(x.type_as(w).relu(), w), ""),
        (lambda x, w: F.linear(x, w) + w.new_zeros(12) + torch.zeros_like(w)[0], ""),
        (lambda x, w: torch.stack([torch.mv(w, row) for row in x]), ""),
    ],
)
def test_reads_of_every_kind_are_told_apart(read: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    maskable = maskable_weights(Layer(read), images=images())
    assert ("f.weight" in maskable.weights) == (not reason)
    assert dict(maskable.dense).get("f.weight", "").startswith(reason)


def test_the_check_leaves_alone_a_model_that_writes_its_own_weights() -> None:
    def renormalise(x: Tensor, w: Tensor) -> Tensor:
        w.data = torch.renorm(w.data, 2, 0, 0.1)
        return F.linear(x, w)

    model = Layer(renormalise)
    before = model.f.weight.detach().clone()
    maskable_weights(model, images=images())
    assert torch.equal(model.f.weight, before)


def test_models_that_cannot_run_are_refused_in_one_sentence() -> None:
    with pytest.raises(BaseError, match="Linear cannot run on images of shape"):
        maskable_weights(nn.Linear(7, 3), images=images())
    with pytest.raises(BaseError, match="has no shape yet: run a forward pass"):
        maskable_weights(nn.Sequential(nn.LazyLinear(3)))


def test_a_layer_that_is_called_fuse_is_a_layer() -> None:
    model = nn.Module()
    model.fuse = nn.Linear(4, 4)
    attach_random(model)
    assert model.fuse(torch.ones(1, 4)).shape == (1, 4)
    detach(model)
