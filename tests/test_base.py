"""Bases: which weights a mask may cover, what a checkpoint must hold, and who a base is."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers.std_conv import ScaledStdConv2d
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from timm_jackpot.base import (
    Base,
    BaseRef,
    base_digest,
    copy_tensors,
    load_base,
    maskable_weights,
    norm_statistics,
    parse_model_kwargs,
    tensor_ids,
)
from timm_jackpot.base.ref import MODEL_KWARGS
from timm_jackpot.base.skip_init import SkipInit
from timm_jackpot.data import DataFlags, open_split
from timm_jackpot.errors import BaseError, BaseMismatchError
from timm_jackpot.networks.digits import WEIGHTS
from timm_jackpot.runtime.processes import Shard

CIFAR_NETS = [f"cifar_resnet{depth}{wide}" for depth in (20, 32, 44, 56) for wide in ("", "x2")] + ["cifar_vgg19_bn"]


def digits_state() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


# -- maskable weights -------------------------------------------------------------------------------


def test_convs_and_linears_but_the_classifier_are_maskable(digits_base: Base) -> None:
    maskable = maskable_weights(digits_base.model)
    matrices = [n for n, p in digits_base.model.named_parameters() if p.dim() > 1]
    assert [*maskable.weights, "fc.weight"] == matrices
    assert maskable.dense == [("fc.weight", "classifier")]
    assert maskable.aliases == {}
    assert all(maskable.weights[n] is p for n, p in digits_base.model.named_parameters() if n in maskable.weights)
    assert maskable.shapes["conv1.0.weight"] == (16, 3, 3, 3)
    assert maskable.sizes["conv1.0.weight"] == 432


def test_the_classifier_can_be_masked_too(digits_base: Base) -> None:
    maskable = maskable_weights(digits_base.model, mask_classifier=True)
    assert list(maskable.weights)[-1] == "fc.weight"
    assert maskable.dense == []


def test_maskable_weights_of_a_vision_transformer() -> None:
    model = timm.create_model("test_vit", pretrained=False, img_size=32)
    maskable = maskable_weights(model)
    assert list(maskable.weights)[:3] == [
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.proj.weight",
    ]
    assert len(maskable.weights) == 1 + 4 * len(model.blocks)  # pyright: ignore
    assert maskable.dense == [
        ("pos_embed", "pos_embed of VisionTransformer, not the weight of a conv or linear layer"),
        ("head.weight", "classifier"),
    ]


def test_weight_standardised_convs_are_left_dense_with_their_reason() -> None:
    model = nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    maskable = maskable_weights(model)
    assert list(maskable.weights) == ["1.weight"]
    assert [name for name, _ in maskable.dense] == ["0.weight"]
    assert "weight-standardized" in maskable.dense[0].reason


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.again = self.a  # a shared module has two names as well

    def get_classifier(self) -> nn.Module:
        return self.head


def test_a_tied_weight_is_maskable_once_under_its_first_name() -> None:
    maskable = maskable_weights(Tied())
    assert list(maskable.weights) == ["a.weight"]
    assert maskable.aliases == {"b.weight": "a.weight", "again.weight": "a.weight"}
    assert maskable.dense == [("head.weight", "classifier")]


def test_a_weight_tied_to_the_classifier_is_left_dense() -> None:
    model = Tied()
    model.head.weight = model.a.weight
    maskable = maskable_weights(model)
    assert maskable.weights == {}
    assert maskable.dense[0] == ("a.weight", "classifier")
    assert dict(maskable.dense[1:]) == dict.fromkeys(("b.weight", "head.weight", "again.weight"), "tied to a.weight")


def test_norm_statistics_are_named_by_the_state_dict(digits_base: Base) -> None:
    names = norm_statistics(digits_base.model)
    state = digits_base.model.state_dict()
    assert names == [name for name in state if name.endswith(("running_mean", "running_var"))]
    assert norm_statistics(timm.create_model("test_vit", img_size=32)) == []


def test_copied_tensors_do_not_follow_the_model(digits_base: Base) -> None:
    copies = copy_tensors(digits_base.model, ["bn1.running_mean"])
    before = copies["bn1.running_mean"].clone()
    digits_base.model.get_buffer("bn1.running_mean").add_(1)
    assert torch.equal(copies["bn1.running_mean"], before)


# -- identity ---------------------------------------------------------------------------------------


def test_the_digest_is_the_one_of_the_format(digits_base: Base) -> None:
    lines = {}
    for name, tensor in digits_state().items():
        if not name.endswith("num_batches_tracked"):
            shape = ",".join(str(size) for size in tensor.shape)
            sha256 = hashlib.sha256(tensor.numpy().astype("<f4").tobytes()).hexdigest()
            lines[name] = f"{name}\0F32\0{shape}\0{sha256}\n"
    text = "".join(lines[name] for name in sorted(lines))
    assert digits_base.ref.digest == hashlib.sha256(text.encode()).hexdigest()


def test_two_loads_have_the_same_digest(digits_base: Base) -> None:
    again = load_base("digits_resnet")
    assert again.ref == digits_base.ref
    assert again.tensors == digits_base.tensors


def test_one_flipped_weight_changes_the_digest_and_only_its_own_hash(digits_base: Base) -> None:
    with torch.no_grad():
        digits_base.model.get_parameter("layer2.0.conv1.weight")[0, 0, 0, 0] *= -1
    ids = tensor_ids(digits_base.model)
    assert base_digest(ids) != digits_base.ref.digest
    assert [name for name in ids if ids[name] != digits_base.tensors[name]] == ["layer2.0.conv1.weight"]


def test_memory_format_and_batch_counters_are_not_part_of_the_identity(digits_base: Base) -> None:
    digits_base.model.to(memory_format=torch.channels_last)  # pyright: ignore
    digits_base.model.get_buffer("bn1.num_batches_tracked").add_(1)
    assert tensor_ids(digits_base.model) == digits_base.tensors


def test_a_base_is_frozen_in_time_and_in_eval_mode(digits_base: Base) -> None:
    assert not any(module.training for module in digits_base.model.modules())
    assert all(p.dtype == torch.float32 for p in digits_base.model.parameters())
    ref = digits_base.ref
    assert (ref.source, ref.name, ref.hub_id, ref.revision) == ("timm", "digits_resnet.sklearn", None, None)
    assert (ref.num_classes, ref.in_chans, ref.img_size) == (10, 3, None)
    assert digits_base.adapted == ()
    assert BaseRef.model_validate_json(ref.model_dump_json()) == ref


def test_a_ref_takes_no_model_argument_outside_the_list(digits_base: Base) -> None:
    fields = digits_base.ref.model_dump()
    with pytest.raises(ValueError, match="may not be set by an artifact"):
        BaseRef(**{**fields, "model_kwargs": {"pretrained_cfg": "x"}})
    with pytest.raises(ValueError, match="digest"):
        BaseRef(**{**fields, "digest": "A" * 64})


# -- changed heads, stems and sizes -----------------------------------------------------------------


def test_a_new_head_is_adapted_and_the_rest_keeps_its_digest(digits_base: Base) -> None:
    seven = load_base("digits_resnet", num_classes=7)
    twelve = load_base("digits_resnet", num_classes=12)
    head = ("fc.weight", "fc.bias")
    assert seven.adapted == twelve.adapted == head
    assert (seven.ref.num_classes, twelve.ref.num_classes) == (7, 12)
    assert seven.ref.digest == twelve.ref.digest == base_digest(digits_base.tensors, adapted=head)
    assert seven.model(torch.randn(1, 3, 32, 32)).shape == (1, 7)
    assert all(seven.tensors[name] == digits_base.tensors[name] for name in digits_base.tensors if name not in head)


def test_asking_for_the_classes_that_the_base_has_changes_nothing(digits_base: Base) -> None:
    same = load_base("digits_resnet", num_classes=10, in_chans=3)
    assert same.adapted == ()
    assert same.ref.digest == digits_base.ref.digest


def test_a_seed_fixes_the_new_head() -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load_base("digits_resnet", num_classes=7).tensors["fc.weight"])
    assert heads[0] == heads[1] != heads[2]


def test_grey_images_adapt_the_stem(digits_base: Base) -> None:
    grey = load_base("digits_resnet", in_chans=1)
    assert grey.adapted == ("conv1.0.weight",)
    assert grey.ref.in_chans == 1
    assert grey.ref.digest == base_digest(digits_base.tensors, adapted=grey.adapted)
    stem = digits_base.model.get_parameter("conv1.0.weight").sum(1, keepdim=True)
    torch.testing.assert_close(grey.model.get_parameter("conv1.0.weight"), stem)


def test_another_image_size_adapts_position_embeddings(tmp_path: Path) -> None:
    path = write(tmp_path / "vit.safetensors", timm.create_model("test_vit").state_dict())
    native, small = (load_base("test_vit", base_checkpoint=path, img_size=size) for size in (None, 64))
    assert small.adapted == ("pos_embed",)
    assert (native.ref.img_size, small.ref.img_size) == (None, 64)
    assert small.ref.digest == base_digest(native.tensors, adapted=("pos_embed",))
    assert small.model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_the_head_of_a_checkpoint_with_other_classes_is_loaded(tmp_path: Path) -> None:
    head = {"fc.weight": torch.randn(100, 80), "fc.bias": torch.randn(100)}
    path = write(tmp_path / "hundred.safetensors", digits_state() | head)
    base = load_base("digits_resnet", base_checkpoint=path, num_classes=100)
    assert base.adapted == ()
    assert torch.equal(base.model.get_parameter("fc.weight"), head["fc.weight"])


# -- where weights come from ------------------------------------------------------------------------


def test_a_checkpoint_file_is_a_base_of_its_own_source(digits_base: Base, tmp_path: Path) -> None:
    base = load_base("digits_resnet", base_checkpoint=write(tmp_path / "copy.safetensors", digits_state()))
    assert (base.ref.source, base.ref.name) == ("file", "digits_resnet")
    assert base.ref.digest == digits_base.ref.digest


def test_a_local_folder_is_a_base(digits_base: Base, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", digits_state())
    save_config_for_hf(digits_base.model, str(tmp_path / "config.json"))
    base = load_base(f"local-dir:{tmp_path}")
    assert (base.ref.source, base.ref.architecture, base.ref.hub_id) == ("file", "digits_resnet", None)
    assert base.ref.digest == digits_base.ref.digest


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"has no config\.json"):
        load_base(f"local-dir:{tmp_path}")
    with pytest.raises(BaseError, match=r"has no config\.json"):
        load_base(f"local-dir:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("config", ["{nope", "[]", "{}", json.dumps({"architecture": "no_such_net"})])
def test_a_folder_with_a_useless_config_is_refused(tmp_path: Path, config: str) -> None:
    write(tmp_path / "model.safetensors", digits_state())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BaseError):
        load_base(f"local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("digits_resnett", "digits_resnet"), ("cifar_resnet2", "cifar_resnet20"), ("resnet_50", "resnet50")],
)
def test_an_unknown_model_suggests_names(name: str, suggestion: str) -> None:
    with pytest.raises(BaseError, match=rf"unknown model '{name}': did you mean .*\b{suggestion}\b"):
        load_base(name)


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(BaseError, match="list_models"):
        load_base("zzzzzzzzzzzz")


def test_an_unknown_tag_suggests_tags() -> None:
    with pytest.raises(BaseError, match=r"digits_resnet\.sklearn"):
        load_base("digits_resnet.sklaern")


def test_a_model_without_published_weights_is_refused_by_name() -> None:
    with pytest.raises(BaseError, match=r"cifar_resnet20 has no published weights.*--base-checkpoint"):
        load_base("cifar_resnet20")


def test_half_precision_checkpoints_become_float32_bases(shared: Path) -> None:
    path = shared / "data" / "weights" / "mobilenetv2_100_imagenet1k_coral.safetensors"
    base = load_base("mobilenetv2_100", base_checkpoint=path, model_kwargs={"pad_type": "same", "bn_eps": 1e-3})
    stem = load_file(path)["conv_stem.weight"]
    assert stem.dtype == torch.float16
    assert base.adapted == ()
    assert torch.equal(base.model.get_parameter("conv_stem.weight"), stem.float())
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}


# -- checkpoints that do not fit --------------------------------------------------------------------


def test_a_wrong_checkpoint_names_the_first_differing_tensor_and_both_shapes(tmp_path: Path) -> None:
    wrong = {"layer2.0.conv1.weight": torch.zeros(48, 31, 3, 3), "layer4.0.conv1.weight": torch.zeros(1)}
    path = write(tmp_path / "wrong.safetensors", digits_state() | wrong)
    sentence = r"wrong\.safetensors .* layer2\.0\.conv1\.weight has shape \(48, 31, 3, 3\), expected \(48, 32, 3, 3\)"
    with pytest.raises(BaseMismatchError, match=sentence):
        load_base("digits_resnet", base_checkpoint=path)


@pytest.mark.parametrize("change", [{}, {"num_classes": 7}, {"in_chans": 1}], ids=["as it is", "new head", "grey"])
def test_a_missing_tensor_is_named_whatever_else_changes(tmp_path: Path, change: dict[str, int]) -> None:
    state = digits_state()
    del state["layer1.0.conv1.weight"]
    path = write(tmp_path / "missing.safetensors", state)
    with pytest.raises(
        BaseMismatchError, match=r"no tensor layer1\.0\.conv1\.weight \(expected shape \(32, 32, 3, 3\)\)"
    ):
        load_base("digits_resnet", base_checkpoint=path, **change)


@pytest.mark.parametrize("change", [{}, {"num_classes": 7}], ids=["as it is", "new head"])
def test_a_surplus_tensor_is_named(tmp_path: Path, change: dict[str, int]) -> None:
    path = write(tmp_path / "surplus.safetensors", digits_state() | {"layer9.weight": torch.zeros(2)})
    with pytest.raises(BaseMismatchError, match=r"layer9\.weight"):
        load_base("digits_resnet", base_checkpoint=path, **change)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="does not exist"):
        load_base("digits_resnet", base_checkpoint=tmp_path / "none.safetensors")


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    torch.save(digits_state(), tmp_path / "weights.pth")
    with pytest.raises(BaseError, match=r"not a \.safetensors file"):
        load_base("digits_resnet", base_checkpoint=tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"", b"no tensors here at all", b"\x08\0\0\0\0\0\0\0{}      "[:12]])
def test_a_file_that_only_claims_to_be_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fake.safetensors").write_bytes(content)
    with pytest.raises(BaseError, match=r"fake\.safetensors is not a readable safetensors file"):
        load_base("digits_resnet", base_checkpoint=tmp_path / "fake.safetensors")


# -- model arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("bn_eps=1e-3", "bn_eps", 0.001),
        ("pad_type=same", "pad_type", "same"),
        ("qkv_bias=False", "qkv_bias", False),
        ("qkv_bias=true", "qkv_bias", True),
        ("output_stride=16", "output_stride", 16),
        ("global_pool=", "global_pool", ""),
        ("act_layer=a=b", "act_layer", "a=b"),
        ("act_layer=[1, 2]", "act_layer", "[1, 2]"),
        ("act_layer=null", "act_layer", "null"),
    ],
)
def test_model_arguments_are_read_as_scalars(pair: str, key: str, value: object) -> None:
    parsed = parse_model_kwargs([pair])
    assert parsed == {key: value}
    assert type(parsed[key]) is type(value)


def test_several_model_arguments() -> None:
    assert parse_model_kwargs(["bn_eps=1e-3", "pad_type=same"]) == {"bn_eps": 0.001, "pad_type": "same"}
    assert parse_model_kwargs([]) == {}


@pytest.mark.parametrize("pair", ["bn_eps", "=3", ""])
def test_a_model_argument_needs_key_and_value(pair: str) -> None:
    with pytest.raises(BaseError, match="takes key=value"):
        parse_model_kwargs([pair])


@pytest.mark.parametrize(
    "key", ["pretrained_cfg", "checkpoint_path", "pretrained_cfg_overlay", "features_only", "channels"]
)
def test_model_arguments_outside_the_list_are_refused(key: str) -> None:
    assert key not in MODEL_KWARGS
    with pytest.raises(BaseError, match=f"model argument '{key}' is not supported"):
        load_base("digits_resnet", model_kwargs={key: "x"})


def test_an_argument_that_this_model_does_not_take_is_refused() -> None:
    with pytest.raises(BaseError, match=r"digits_resnet does not take these arguments.*qkv_bias"):
        load_base("digits_resnet", model_kwargs={"qkv_bias": True})


def test_model_arguments_reach_the_model_and_its_ref() -> None:
    base = load_base("digits_resnet", model_kwargs={"global_pool": "max"})
    assert base.ref.model_kwargs == {"global_pool": "max"}
    assert base.model.global_pool.pool_type == "max"  # pyright: ignore


# -- the papers' CIFAR networks ---------------------------------------------------------------------


def test_the_cifar_networks_are_timm_entries() -> None:
    assert sorted(CIFAR_NETS) == timm.list_models("cifar_*")


@pytest.mark.parametrize("name", CIFAR_NETS)
def test_cifar_networks_run_forward(name: str) -> None:
    model = timm.create_model(name, num_classes=100, in_chans=1).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 100)
    assert model.get_classifier().out_features == 100  # pyright: ignore
    assert [dense.name for dense in maskable_weights(model).dense] == ["linear.weight"]


@pytest.mark.parametrize(
    ("depth", "parameters", "top1"),
    [
        (20, 269_722, 91.64),
        pytest.param(32, 464_154, 92.82, marks=pytest.mark.slow),
        pytest.param(44, 658_586, 93.41, marks=pytest.mark.slow),
        pytest.param(56, 853_018, 92.72, marks=pytest.mark.slow),
    ],
)
def test_published_cifar_weights_have_their_accuracy(shared: Path, depth: int, parameters: int, top1: float) -> None:
    checkpoint = shared / "data" / "weights" / f"resnet{depth}_cifar10.safetensors"
    model = load_base(f"cifar_resnet{depth}", base_checkpoint=checkpoint).model
    assert sum(p.numel() for p in model.parameters()) == parameters
    flags = DataFlags(data_dir=str(shared / "data" / "cifar10_lossless"))
    test = open_split(flags, None, model, device=torch.device("cpu"))
    assert len(test) == 1017
    with torch.inference_mode():
        batches = test.eval_batches(batch_size=256, shard=Shard())
        hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    assert math.isclose(100 * hits / 1017, top1, abs_tol=0.15)


def test_initial_weights_are_not_drawn_where_a_checkpoint_replaces_them() -> None:
    drawn = torch.get_rng_state()
    with SkipInit():
        layer = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            before = layer.weight.fill_(7.0).clone()
        for init in (nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.normal_):
            init(layer.weight)
        assert torch.equal(layer.weight, before)
        assert torch.equal(torch.get_rng_state(), drawn)
        buffer = torch.zeros(8).normal_()  # may be one that no checkpoint holds
    assert buffer.abs().sum() > 0


HOSTILE_CONFIGS = {
    "deep": b"[" * 100_000,
    "model_args": {"model_args": None},
    "argument": {"model_args": {"img_size": [[1], [2]]}},
    "size": {"model_args": {"in_chans": 10**12}},
    "classes": {"num_classes": 10**12},
    "pretrained_cfg": {"pretrained_cfg": [1]},
    "input_size": {"pretrained_cfg": {"input_size": [3, [1], 2]}},
    "mean": {"pretrained_cfg": {"mean": "x"}},
    "other": {"architecture": "test_vit"},
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_a_config_that_timm_never_wrote_is_refused(name: str, tmp_path: Path) -> None:
    save_config_for_hf(load_base("digits_resnet").model, str(tmp_path / "config.json"))
    write(tmp_path / "model.safetensors", digits_state())
    assert load_base(f"local-dir:{tmp_path}").ref.architecture == "digits_resnet"
    change = HOSTILE_CONFIGS[name]
    if isinstance(change, dict):
        config = json.loads((tmp_path / "config.json").read_text())
        nested = {key: value for key, value in change.items() if isinstance(value, dict)}
        inside = {key: {**config.get(key, {}), **value} for key, value in nested.items()}
        change = json.dumps({**config, **change, **inside}).encode()
    (tmp_path / "config.json").write_bytes(change)
    with pytest.raises(BaseError):
        load_base(f"local-dir:{tmp_path}")


def test_a_config_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(BaseError, match="does not name a timm architecture"):
        load_base(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("shape", [(), (10**12, 0), (0, 80)])
def test_a_head_of_no_number_of_classes_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = write(tmp_path / "w.safetensors", {**digits_state(), "fc.weight": torch.zeros(shape)})
    with pytest.raises(BaseMismatchError, match="classes: expected 1 to 200000"):
        load_base("digits_resnet", base_checkpoint=weights)
