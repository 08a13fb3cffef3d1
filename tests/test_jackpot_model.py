"""Many jackpots on one backbone: each as if it were loaded alone, and the base as if there were none."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
import re
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_jackpot import JackpotModel, base_from_module, from_pretrained, save_pretrained, transform_of
from timm_jackpot.artifact import Extra, Jackpot, read_artifact
from timm_jackpot.base import (
    Base,
    classifier_parameters,
    load_base,
    maskable_weights,
    norm_affine,
    norm_statistics,
    save_random_weights,
)
from timm_jackpot.data.open import data_config
from timm_jackpot.errors import ArtifactError, BaseMismatchError, ConfigError, ServingError
from timm_jackpot.masks import MaskSet, packed_bytes
from timm_jackpot.serving import backbone
from timm_jackpot.serving.fair_lock import FairLock

HUB_CARD = Path(__file__).parents[1] / "hubcards" / "digits"


def random_jackpot(
    base: Base,
    seed: int,
    *,
    density: float = 0.3,
    moved: Sequence[str] = ("norm_statistics",),
    exclude: Sequence[str] = (),
    mask_classifier: bool = False,
    img_size: int | None = None,
    mean: Sequence[float] | None = None,
) -> Jackpot:
    """Random masks and random other tensors: nothing that two of them could have in common by accident."""
    generator = torch.Generator().manual_seed(seed)
    maskable = maskable_weights(base.model, mask_classifier=mask_classifier, exclude=exclude)
    state = base.model.state_dict()
    names = {
        "norm_statistics": norm_statistics(base.model),
        "norm_affine": norm_affine(base.model),
        "head": classifier_parameters(base.model),
    }
    extras = {
        name: Extra(role, torch.rand(state[name].shape, generator=generator) + 0.1)  # pyright: ignore
        for role in moved
        for name in names[role]
    }
    masks = MaskSet({n: torch.rand(s, generator=generator) < density for n, s in maskable.shapes.items()})
    return Jackpot(
        base=base,
        maskable=maskable,
        masks=masks,
        extras=extras,
        sparsity=f"{Decimal(masks.total - masks.kept) / masks.total:.25f}",
        allocation="global",
        data=data_config(base.model, img_size, mean=mean),
    )


def digits(classes: int | None = None) -> Base:
    return load_base("digits_resnet", num_classes=classes)


# One of each kind: every switch between two of them has something to take back.
TEN: dict[str, Callable[[], Jackpot]] = {
    "plain": lambda: random_jackpot(digits(), 0),
    "bare": lambda: random_jackpot(digits(), 1, moved=()),
    "dense": lambda: random_jackpot(digits(), 2, density=1.0),
    "sparse": lambda: random_jackpot(digits(), 3, density=0.02),
    "partly": lambda: random_jackpot(digits(), 4, exclude=["layer2.*", "conv1.*"], moved=()),
    "affine": lambda: random_jackpot(digits(), 5, moved=("norm_statistics", "norm_affine")),
    "own_head": lambda: random_jackpot(digits(), 6, moved=("head",)),
    "masked_head": lambda: random_jackpot(digits(), 7, mask_classifier=True, img_size=40),
    "five": lambda: random_jackpot(digits(5), 8, moved=("norm_statistics", "head"), mean=(0.1, 0.2, 0.3)),
    "seven": lambda: random_jackpot(digits(7), 9, exclude=["layer1.*"], moved=("head",)),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("jackpots")
    return {
        name: save_pretrained(make(), root / name, encoding=encoding)
        for (name, make), encoding in zip(TEN.items(), itertools.cycle(("packed", "compact")))
    }


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str | None, nn.Module]:
    """Every jackpot loaded by itself, and the dense base under None."""
    return {None: digits().model, **{name: from_pretrained(folder) for name, folder in folders.items()}}


@pytest.fixture
def model(folders: dict[str, Path]) -> JackpotModel:
    model = JackpotModel.from_pretrained(folders["plain"], adapter_name="plain")
    for name in TEN:
        if name != "plain":
            model.load_adapter(folders[name], name)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    """All tensors, with the signs of their zeros."""
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name
        if tensor.is_floating_point():
            assert torch.equal(tensor.signbit(), second[name].signbit()), name


def test_ten_jackpots_on_one_backbone_are_what_each_is_alone(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    assert model.adapter_names == list(TEN)
    assert model.active_adapter == "plain"
    walk = list(TEN)
    order = torch.randperm(3 * len(walk), generator=torch.Generator().manual_seed(3)).tolist()
    for name in [*walk, *(walk[i % len(walk)] for i in order), *reversed(walk)]:
        model.set_adapter(name)
        assert model.active_adapter == name
        assert_same_bits(model.model, alone[name])
        with torch.no_grad():
            assert torch.equal(model(images), alone[name](images)), name
        assert model.num_classes == alone[name].num_classes
        assert model.pretrained_cfg == alone[name].pretrained_cfg
        assert resolve_model_data_config(model) == resolve_model_data_config(alone[name])
        assert str(transform_of(model)) == str(transform_of(alone[name]))
    assert len({str(transform_of(one)) for one in alone.values()}) == 3
    assert any((module.state_dict()["fc.weight"].signbit()).any() for module in alone.values())


def test_a_removed_negative_weight_is_minus_zero_as_in_a_single_load(model: JackpotModel) -> None:
    weight = model.model.get_parameter("layer2.0.conv1.weight")
    assert weight[weight == 0].signbit().any()


@pytest.mark.parametrize("name", TEN)
def test_without_a_jackpot_it_is_the_dense_base_exactly(
    folders: dict[str, Path], alone: dict[str | None, nn.Module], images: Tensor, name: str
) -> None:
    model = JackpotModel.from_pretrained(folders[name])
    assert (model.adapter_names, model.active_adapter) == (["default"], "default")
    assert_same_bits(model.model, alone[name])
    dense = alone[None]
    model.set_adapter(None)
    assert model.active_adapter is None
    assert_same_bits(model.model, dense)
    assert torch.equal(model(images), dense(images))
    assert model.num_classes == 10
    assert model.pretrained_cfg == dense.pretrained_cfg
    model.set_adapter("default")
    assert_same_bits(model.model, alone[name])


def test_disabled_for_a_while(model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor) -> None:
    model.set_adapter("five")
    with model.disable_adapter():
        assert torch.equal(model(images), alone[None](images))
        with model.disable_adapter():
            assert model.active_adapter is None
        assert model.active_adapter is None
    assert model.active_adapter == "five"
    assert torch.equal(model(images), alone["five"](images))
    with pytest.raises(RuntimeError, match="channels"), model.disable_adapter():
        model(torch.randn(1, 4, 32, 32))
    assert model.active_adapter == "five"
    with model.disable_adapter():
        model.delete_adapter("five")
    assert model.active_adapter is None
    assert_same_bits(model.model, alone[None])


def test_unloading_frees_and_of_the_active_one_leaves_the_base(
    model: JackpotModel, folders: dict[str, Path], alone: dict[str | None, nn.Module]
) -> None:
    packed = weakref.ref(next(iter(model._adapters["five"].packed.values())))
    model.set_adapter("sparse")
    model.delete_adapter("five")
    gc.collect()
    assert packed() is None
    assert "five" not in model.adapter_names
    assert model.active_adapter == "sparse"
    model.delete_adapter("sparse")
    assert model.active_adapter is None
    assert_same_bits(model.model, alone[None])
    with pytest.raises(ServingError, match=r"no adapter 'sparse' is loaded: the nearest are"):
        model.set_adapter("sparse")
    model.load_adapter(folders["sparse"], "sparse")
    assert model.active_adapter is None
    model.set_adapter("sparse")
    assert_same_bits(model.model, alone["sparse"])


def test_a_further_adapter_takes_its_packed_mask_and_its_extras(model: JackpotModel, folders: dict[str, Path]) -> None:
    for name, held in model._adapters.items():
        artifact = read_artifact(folders[name])
        stored = sum(t.untyped_storage().nbytes() for t in (*held.packed.values(), *held.extras.values()))
        assert stored == sum(packed_bytes(layer.total) for layer in artifact.config.layers) + sum(
            t.nbytes for t in artifact.extras.values()
        )
        rest = len(pickle.dumps((list(held.packed), list(held.extras), held.described)))
        assert rest < 0.01 * sum(t.nbytes for t in model._backbone._model.state_dict().values())


def test_the_base_copy_is_never_written_to(model: JackpotModel, alone: dict[str | None, nn.Module]) -> None:
    for name in TEN:
        model.set_adapter(name)
        assert_same_bits(model._backbone._model, alone[None])
    theirs = {t.data_ptr() for t in model._backbone._model.state_dict().values()}
    assert not theirs & {t.data_ptr() for t in model.model.state_dict().values()}


def test_a_switch_writes_every_tensor_once_and_multiplies_floats_alone(
    model: JackpotModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, dtypes, mul = [], set(), torch.mul

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func: Callable[..., Tensor], _: object, args: tuple = (), kwargs: object = None):
            if func is torch.ops.aten.copy_.default:
                copied.append(args[0].data_ptr())
            return func(*args, **(kwargs or {}))  # pyright: ignore

    def multiply(one: Tensor, other: Tensor, **out: Tensor) -> Tensor:
        dtypes.update((one.dtype, other.dtype))
        return mul(one, other, **out)

    monkeypatch.setattr(torch, "mul", multiply)
    for name in ("affine", "seven", None, "five"):
        copied.clear()
        with Copies():
            model.set_adapter(name)
        assert sorted(copied) == sorted(tensor.data_ptr() for tensor in model.model.state_dict().values())
    assert dtypes == {torch.float32}  # a mask beside it would be converted into a new tensor


def test_there_is_one_module_for_each_number_of_classes_all_on_the_same_weights(
    model: JackpotModel, images: Tensor
) -> None:
    weight = model.model.get_parameter("layer2.0.conv1.weight")
    modules: dict[int, nn.Module] = {}
    seen: list[int] = []
    model.layer4.register_forward_hook(lambda *_: seen.append(1))
    for name in ("affine", "five", "seven", "five", "plain", "seven"):
        model.set_adapter(name)
        model(images)
        assert modules.setdefault(model.num_classes, model.model) is model.model
        assert model.model.get_parameter("layer2.0.conv1.weight") is weight
    assert len(modules) == 3
    assert len(seen) == 2  # hooks are those of the one module that they were put on
    head = weakref.ref(modules.pop(5))
    model.delete_adapter("five")
    gc.collect()
    assert head() is None


def test_names_are_taken_once_and_no_wrong_ones_are(model: JackpotModel, folders: dict[str, Path]) -> None:
    with pytest.raises(ServingError, match=r"an adapter 'plain' is already loaded: .* call delete_adapter first"):
        model.load_adapter(folders["five"], "plain")
    for name in ("", 3):
        with pytest.raises(ServingError, match="must be a non-empty string"):
            model.load_adapter(folders["five"], name)  # pyright: ignore
    with pytest.raises(ServingError, match=r"no adapter 'spares' is loaded: the nearest are sparse"):
        model.set_adapter("spares")
    with pytest.raises(ServingError, match="no adapter None is loaded"):
        model.delete_adapter(None)  # pyright: ignore
    with pytest.raises(ServingError, match="no adapter 'x' is loaded"):
        model.delete_adapter("x")
    with pytest.raises(ServingError, match="must be a non-empty string"):
        JackpotModel.from_pretrained(folders["plain"], adapter_name="")
    assert (model.adapter_names, model.active_adapter) == (list(TEN), "plain")
    model.load_adapter(folders["five"])
    assert model.adapter_names == [*TEN, "default"]
    with pytest.raises(ServingError, match="an adapter 'default' is already loaded"):
        model.load_adapter(folders["five"])


# -- another base -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints of one architecture, and jackpots: on each, with a new head, and for larger images."""
    root = tmp_path_factory.mktemp("vits")
    torch.manual_seed(7)
    for which in ("one", "other"):
        save_random_weights("test_vit", root / f"{which}.safetensors", {}, img_size=32)
    found = {"one.safetensors": root / "one.safetensors", "other.safetensors": root / "other.safetensors"}
    for name, checkpoint, changes in [
        ("a", "one", {"img_size": 32}),
        ("b", "one", {"img_size": 32, "num_classes": 3}),
        ("other", "other", {"img_size": 32}),
        ("larger", "one", {"img_size": 64}),
        ("kwargs", "one", {"img_size": 32, "model_kwargs": {"act_layer": "relu"}}),
        ("dropping", "one", {"img_size": 32, "model_kwargs": {"drop_path_rate": 0.1}}),
    ]:
        base = load_base("test_vit", base_checkpoint=root / f"{checkpoint}.safetensors", **changes)
        moved = ("head",) if "num_classes" in changes else ()
        found[name] = save_pretrained(random_jackpot(base, len(found), moved=moved), root / name)
    return found


def test_a_transformer_with_and_without_a_new_head(vits: dict[str, Path]) -> None:
    x = torch.randn(2, 3, 32, 32)
    checkpoint = vits["one.safetensors"]
    model = JackpotModel.from_pretrained(vits["b"], adapter_name="b", base_checkpoint=checkpoint)
    model.load_adapter(vits["a"], "a")
    model.load_adapter(vits["dropping"], "dropping")  # acts in training alone
    for name in ("a", "b", "b", "dropping", "a"):
        model.set_adapter(name)
        alone = from_pretrained(vits[name], base_checkpoint=checkpoint)
        assert_same_bits(model.model, alone)
        assert torch.equal(model(x), alone(x))


@pytest.mark.parametrize(
    "name",
    [
        "test_convnext",
        pytest.param("test_nfnet", marks=pytest.mark.slow),
        pytest.param("test_mambaout", marks=pytest.mark.slow),
        pytest.param("deit_tiny_distilled_patch16_224", marks=pytest.mark.slow),  # two heads
        pytest.param("levit_128s", marks=pytest.mark.slow),  # heads with statistics of their own
    ],
)
def test_heads_of_all_kinds_go_on_and_off(name: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "base.safetensors"
    save_random_weights(name, checkpoint, {})
    base, other = (load_base(name, base_checkpoint=checkpoint, num_classes=n) for n in (None, 3))
    save_pretrained(random_jackpot(base, 0), tmp_path / "own")
    save_pretrained(random_jackpot(other, 1, moved=("norm_statistics", "head")), tmp_path / "new")
    save_pretrained(random_jackpot(other, 2, moved=("head",)), tmp_path / "again")
    alone = {n: from_pretrained(tmp_path / n, base_checkpoint=checkpoint) for n in ("own", "new", "again")}
    model = JackpotModel.from_pretrained(tmp_path / "new", adapter_name="new", base_checkpoint=checkpoint)
    model.load_adapter(tmp_path / "own", "own")
    model.load_adapter(tmp_path / "again", "again")
    x = torch.randn(1, *base.model.pretrained_cfg["input_size"])
    for n in ("new", "again", "own", "new", "own", "again", "new"):
        model.set_adapter(n)
        assert_same_bits(model.model, alone[n])
        assert torch.equal(model(x), alone[n](x))
        with model.disable_adapter():
            assert_same_bits(model.model, base.model)
            assert torch.equal(model(x), base.model(x))


@pytest.mark.gpu
def test_on_a_gpu(model: JackpotModel, folders: dict[str, Path], images: Tensor) -> None:
    model.set_adapter("five")
    model.to("cuda")
    for name in ("five", "plain", "seven"):
        model.set_adapter(name)
        assert torch.equal(model(images.cuda()), from_pretrained(folders[name], device="cuda")(images.cuda()))


def test_a_jackpot_of_another_base_is_refused_by_name(vits: dict[str, Path], folders: dict[str, Path]) -> None:
    model = JackpotModel.from_pretrained(vits["a"], adapter_name="a", base_checkpoint=vits["one.safetensors"])
    before = copy.deepcopy(model.model)
    for name, message in [
        (
            "other",
            r"other cannot be loaded as 'x': this is not the base of the mask: .* differs first; expected test_vit",
        ),
        ("larger", r"its base test_vit has img_size 64, the base in memory 32"),
        ("kwargs", r"its base test_vit has model_kwargs \{'act_layer': 'relu'\}, the base in memory \{\}"),
    ]:
        with pytest.raises(BaseMismatchError, match=message):
            model.load_adapter(vits[name], "x")
    with pytest.raises(BaseMismatchError, match=r"its base digits_resnet\.sklearn has architecture digits_resnet"):
        model.load_adapter(folders["plain"], "x")
    assert (model.adapter_names, model.active_adapter) == (["a"], "a")
    assert_same_bits(model.model, before)


def test_a_damaged_artifact_is_refused_as_everywhere(
    model: JackpotModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    damaged = shutil.copytree(folders["plain"], tmp_path / "damaged")
    with (damaged / "masks.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xa5")
    with pytest.raises(ArtifactError, match="is damaged"):
        model.load_adapter(damaged, "x")
    config = json.loads((damaged / "config.json").read_text())
    config["base"]["digest"] = "0" * 64
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseMismatchError, match="damaged cannot be loaded as 'x': this is not the base of the mask"):
        model.load_adapter(damaged, "x")
    with pytest.raises(ArtifactError, match="neither an artifact folder nor"):
        model.load_adapter(tmp_path / "nothing", "x")
    with pytest.raises(ArtifactError, match="neither an artifact folder nor"):
        JackpotModel.from_pretrained(tmp_path / "nothing")
    assert model.adapter_names == list(TEN)


def test_a_convolutional_base_takes_jackpots_for_images_of_any_size(tmp_path: Path, images: Tensor) -> None:
    base = load_base("digits_resnet", img_size=48)
    folder = save_pretrained(random_jackpot(base, 1, img_size=48), tmp_path / "larger")
    model = JackpotModel.from_pretrained(HUB_CARD, adapter_name="digits")
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    model.load_adapter(folder, "larger")
    model.set_adapter("larger")
    assert model.pretrained_cfg["input_size"] == (3, 48, 48)
    assert torch.equal(model(images), from_pretrained(folder)(images))


class Tied(nn.Module):
    """A module of one's own: a tied pair, and no way to change its head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1)).relu()).relu())


def test_a_module_of_ones_own_with_tied_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tied()
    base = base_from_module(module, "tied", num_classes=4, input_size=(3, 2, 2), classifier="head")
    folders = [save_pretrained(random_jackpot(base, seed), tmp_path / str(seed)) for seed in (0, 1)]
    pristine, x = copy.deepcopy(module), torch.randn(2, 3, 2, 2)
    model = JackpotModel.from_pretrained(folders[0], adapter_name="0", base=copy.deepcopy(module))
    model.load_adapter(folders[1], "1")
    for name in "1010":
        model.set_adapter(name)
        assert model.model.get_parameter("first.weight") is model.model.get_parameter("second.weight")
        assert torch.equal(model(x), from_pretrained(folders[int(name)], base=copy.deepcopy(module))(x))
    model.set_adapter(None)
    assert torch.equal(model(x), pristine(x))
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.head.bias += 1
    with pytest.raises(BaseMismatchError, match="another tensor differs"):
        JackpotModel.from_pretrained(folders[0], base=changed)
    config = json.loads((folders[1] / "config.json").read_text())
    config["head"] = {"names": ["head.weight", "head.bias"], "num_classes": 9, "labels": None}
    config["base"]["num_classes"] = 9
    config["extras"] = [
        {"name": "head.weight", "shape": [9, 12], "role": "head"},
        {"name": "head.bias", "shape": [9], "role": "head"},
    ]
    config["files"]["extras.safetensors"] = config["files"]["masks.safetensors"]
    (folders[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseMismatchError, match="a head with 9 classes, but a Tied cannot change its head"):
        model.load_adapter(folders[1], "2")


# -- as a module ------------------------------------------------------------------------------------


def test_it_follows_to_another_type_and_memory_format(
    model: JackpotModel, folders: dict[str, Path], images: Tensor
) -> None:
    model.set_adapter("seven")  # moved while a new head is on it
    model.to(torch.bfloat16)
    assert model.active_adapter == "seven"
    for copies in (model.model, model._backbone._model):
        assert {t.dtype for t in copies.state_dict().values()} == {torch.bfloat16, torch.int64}
    for name in ("seven", "plain", "masked_head", "five", "own_head"):
        model.set_adapter(name)
        alone = from_pretrained(folders[name], dtype=torch.bfloat16)
        assert_same_bits(model.model, alone)
        assert torch.equal(model(images.bfloat16()), alone(images.bfloat16())), name
    at_once = JackpotModel.from_pretrained(folders["affine"], dtype=torch.bfloat16)
    assert_same_bits(at_once.model, from_pretrained(folders["affine"], dtype=torch.bfloat16))
    at_once.load_adapter(folders["five"], "five")  # checked against the base as it was loaded


@pytest.mark.parametrize("fails_at", [0, 30, 100])
def test_a_conversion_that_fails_changes_nothing(model: JackpotModel, images: Tensor, fails_at: int) -> None:
    model.set_adapter("five")
    before, done = (model(images), copy.deepcopy(model.model)), itertools.count()

    def halve(tensor: Tensor) -> Tensor:
        if next(done) == fails_at:
            raise MemoryError
        return tensor.half() if tensor.is_floating_point() else tensor

    with pytest.raises(MemoryError):
        model._apply(halve)
    assert model.active_adapter == "five"
    assert_same_bits(model.model, before[1])
    assert torch.equal(model(images), before[0])
    assert torch.equal(model.predict(images, [None] * 6), digits().model(images))  # pyright: ignore
    model.half()
    assert {t.dtype for t in model._backbone._model.state_dict().values()} == {torch.float16, torch.int64}


def test_compact_masks_want_the_base_as_it_was_loaded(folders: dict[str, Path], images: Tensor) -> None:
    model = JackpotModel.from_pretrained(folders["bare"]).to(torch.bfloat16)  # pyright: ignore
    assert read_artifact(folders["affine"]).config.encoding == "compact"
    with pytest.raises(ServingError, match="compact"):
        model.load_adapter(folders["affine"], "affine")
    model.load_adapter(folders["plain"], "plain")
    assert model.adapter_names == ["default", "plain"]


def test_channels_last(model: JackpotModel, folders: dict[str, Path], images: Tensor) -> None:
    model.to(memory_format=torch.channels_last)  # pyright: ignore
    for name in ("five", "plain", "partly"):
        model.set_adapter(name)
        alone = from_pretrained(folders[name]).to(memory_format=torch.channels_last)  # pyright: ignore
        assert model.model.get_parameter("layer2.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)
        assert_same_bits(model.model, alone)
        assert torch.equal(model(images), alone(images))


def test_it_serves_and_does_not_train(model: JackpotModel) -> None:
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert model.eval() is model
    with pytest.raises(ServingError, match="cannot be trained: load a single jackpot with"):
        model.train()
    model.set_adapter("five")
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    state = model.state_dict()
    assert state.keys() == {f"model.{name}" for name in model.model.state_dict()}
    for parent in (model, nn.Sequential(model)):
        with pytest.raises(ServingError, match="cannot load a state dict"):
            parent.load_state_dict(parent.state_dict())


def test_gradients_of_images_do_not_survive_a_switch(model: JackpotModel, images: Tensor) -> None:
    images.requires_grad_()
    model(images).sum().backward()
    assert images.grad is not None
    loss = model(images).sum()
    model.set_adapter("sparse")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_and_pickles_are_models_of_their_own(model: JackpotModel, alone: dict[str | None, nn.Module]) -> None:
    model.set_adapter("five")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_bits(other.model, alone["five"])
        other.set_adapter("plain")
        other.delete_adapter("five")
        assert_same_bits(other.model, alone["plain"])
        assert model.active_adapter == "five"
        assert_same_bits(model.model, alone["five"])


def test_what_the_model_at_work_has_it_has_too(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    assert model.layer2 is model.model.layer2
    assert torch.equal(model.forward_features(images), alone["plain"].forward_features(images))
    assert not hasattr(model, "nothing")
    assert "adapter_names=['plain'" in repr(model)
    assert "active_adapter='plain'" in repr(model)


def test_inside_inference_mode(folders: dict[str, Path], alone: dict[str | None, nn.Module], images: Tensor) -> None:
    with torch.inference_mode():
        model = JackpotModel.from_pretrained(folders["plain"], adapter_name="plain")
        model.load_adapter(folders["five"], "five")
        model.set_adapter("five")
    model.set_adapter("plain")
    assert torch.equal(model(images.requires_grad_()), alone["plain"](images))


@pytest.mark.parametrize("before", ["plain", "seven", None])
@pytest.mark.parametrize("name", ["five", "own_head"])
@pytest.mark.parametrize(("where", "error"), [("unpack", MemoryError), ("mul", KeyboardInterrupt)])
def test_a_switch_that_fails_half_way_changes_nothing(
    model: JackpotModel,
    alone: dict[str | None, nn.Module],
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    before: str | None,
    name: str,
    where: str,
    error: type[BaseException],
) -> None:
    model.set_adapter(before)
    place = {"unpack": backbone, "mul": torch}[where]
    calls, works = itertools.count(), getattr(place, where)

    def failing(*args: object, **kwargs: object) -> Tensor:
        if next(calls) == 5:
            raise error
        return works(*args, **kwargs)

    monkeypatch.setattr(place, where, failing)
    with pytest.raises(error):
        model.set_adapter(name)
    monkeypatch.undo()
    assert model.active_adapter == before
    assert_same_bits(model.model, alone[before])
    assert torch.equal(model(images), alone[before](images))
    model.set_adapter(name)
    assert_same_bits(model.model, alone[name])


# -- predict ----------------------------------------------------------------------------------------


def test_predict_gives_every_sample_to_its_jackpot(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    model.set_adapter("affine")
    names = ["bare", "affine", None, "bare", "own_head", "affine"]
    logits = model.predict(images, names)
    assert isinstance(logits, Tensor)
    assert logits.shape == (6, 10)
    assert not logits.requires_grad
    for name in set(names):
        chosen = [i for i, other in enumerate(names) if other == name]
        with torch.inference_mode():
            assert torch.equal(logits[chosen], alone[name](images[chosen])), name
    assert model.active_adapter == "affine"
    assert_same_bits(model.model, alone["affine"])


def test_predict_with_heads_of_several_widths_gives_a_list(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    names = ["five", "plain", "seven", "five", None, "seven"]
    logits = model.predict(images, names)
    assert isinstance(logits, list)
    assert [len(row) for row in logits] == [5, 10, 7, 5, 10, 7]
    for i, name in enumerate(names):
        chosen = [j for j, other in enumerate(names) if other == name]
        with torch.inference_mode():
            assert torch.equal(logits[i], alone[name](images[chosen])[chosen.index(i)])
    assert model.active_adapter == "plain"


@given(names=st.lists(st.sampled_from([None, "plain", "bare", "five"]), min_size=1, max_size=8), data=st.data())
def test_predict_keeps_the_order_whatever_the_names(names: list[str | None], data: st.DataObject) -> None:
    model = _marked_model()
    active = data.draw(st.sampled_from([None, "plain", "bare", "five"]))
    model._switch(active)
    out = model.predict(torch.arange(len(names)).float()[:, None], names)
    assert [(int(row[0]), int(row[1])) for row in out] == [(i, [*_MARKS].index(n)) for i, n in enumerate(names)]
    assert model.active_adapter == active


_MARKS = (None, "plain", "bare", "five")


def _marked_model() -> JackpotModel:
    """One that answers with the number of the sample and that of the jackpot."""
    model = object.__new__(JackpotModel)
    nn.Module.__init__(model)
    model._lock, model._active = FairLock(), None
    model._adapters = dict.fromkeys(["plain", "bare", "five"])  # pyright: ignore

    def switch(name: str | None) -> None:
        model._active = name

    def answer(x: Tensor) -> Tensor:
        mark = torch.full_like(x, [*_MARKS].index(model._active))
        return torch.cat([x, mark, *([x] if model._active == "five" else [])], 1)

    model._switch = switch  # pyright: ignore
    object.__setattr__(model, "model", answer)
    return model


def test_predict_refuses_before_it_starts(model: JackpotModel, images: Tensor) -> None:
    with pytest.raises(ServingError, match="one name per image, but got 6 images and 2 names"):
        model.predict(images, ["plain", "bare"])
    with pytest.raises(ServingError, match="one name per image, but got 0 images and 0 names"):
        model.predict(images[:0], [])
    with pytest.raises(ServingError, match="no adapter 'x' is loaded"):
        model.predict(images, ["bare"] * 5 + ["x"])
    assert model.active_adapter == "plain"


def test_after_an_error_in_predict_the_active_jackpot_is_the_same(
    model: JackpotModel, alone: dict[str | None, nn.Module]
) -> None:
    for active in ("plain", "five"):
        model.set_adapter(active)
        with pytest.raises(RuntimeError, match="channels"):
            model.predict(torch.randn(2, 4, 32, 32), ["bare", "seven"])
        assert model.active_adapter == active
        assert_same_bits(model.model, alone[active])
    model.set_adapter("plain")  # nothing is held any more


# -- threads ----------------------------------------------------------------------------------------


def _in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


@contextmanager
def _forward_running(model: JackpotModel, images: Tensor) -> Iterator[None]:
    """A forward of another thread stands still in the middle."""
    started, release = threading.Event(), threading.Event()
    first = threading.local()

    def wait(*_: object) -> None:
        if getattr(first, "mine", False):
            started.set()
            assert release.wait(30)

    def call() -> Tensor:
        first.mine = True
        return model(images)

    hook = model.model.layer2.register_forward_pre_hook(wait)  # pyright: ignore
    thread, results = _in_thread(call)
    assert started.wait(30)
    try:
        yield
    finally:
        release.set()
        thread.join(30)
        hook.remove()
        assert isinstance(results[0], Tensor)


def test_what_changes_the_model_waits_for_a_forward_under_way(
    model: JackpotModel, folders: dict[str, Path], alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    def disabled() -> Tensor:
        with model.disable_adapter():
            return model(images)

    changes: list[Callable[[], object]] = [
        lambda: model.set_adapter("bare"),
        disabled,
        lambda: model.delete_adapter("five"),
        lambda: model.to(torch.float32),
        lambda: model.predict(images, ["sparse"] * 6),
    ]
    with _forward_running(model, images):
        # Further forwards are welcome while nothing else waits, from any thread; so is a further adapter.
        thread, results = _in_thread(lambda: model(images))
        thread.join(30)
        assert torch.equal(results[0], alone["plain"](images))  # pyright: ignore
        assert torch.equal(model.predict(images, ["plain"] * 6), alone["plain"](images))  # pyright: ignore
        model.load_adapter(folders["bare"], "another")
        waiting = [_in_thread(change) for change in changes]
        time.sleep(0.1)
        assert not any(results for _, results in waiting)
        assert (model.adapter_names, model.active_adapter) == ([*TEN, "another"], "plain")
    for thread, _ in waiting:
        thread.join(30)
    answers = [results[0] for _, results in waiting]
    assert answers[0] is answers[2] is None
    assert answers[3] is model
    for answer, name in ((answers[1], None), (answers[4], "sparse")):
        assert torch.equal(answer, alone[name](images))  # pyright: ignore
    assert "five" not in model.adapter_names
    assert model.active_adapter == "bare"
    assert_same_bits(model.model, alone["bare"])


def test_within_a_forward_nothing_is_changed(model: JackpotModel, images: Tensor) -> None:
    refusals: list[str] = []

    def switch(*_: object) -> None:
        for call in (lambda: model.set_adapter("bare"), lambda: model.predict(images, ["bare"] * 6), model.half):
            with pytest.raises(ServingError, match="was called within a forward of the model") as refusal:
                call()
            refusals.append(str(refusal.value))

    hook = model.model.layer2.register_forward_pre_hook(switch)  # pyright: ignore
    model.forward_features(images)
    model(images)
    model.predict(images, ["sparse"] * 6)
    assert len(refusals) == 9
    hook.remove()
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.randn(1, 4, 32, 32))
    model.set_adapter("bare")  # a forward that failed runs no more


def test_a_forward_and_a_second_switch_wait_for_a_switch(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    switching_now, release, unpack = threading.Event(), threading.Event(), backbone.unpack

    def slow(packed: Tensor, shape: Sequence[int]) -> Tensor:
        switching_now.set()
        assert release.wait(30)
        return unpack(packed, shape)

    monkeypatch.setattr(backbone, "unpack", slow)
    first, _ = _in_thread(lambda: model.set_adapter("sparse"))
    assert switching_now.wait(30)
    forward, results = _in_thread(lambda: model(images))
    _until(lambda: len(model._lock._queue) == 1)
    second, done = _in_thread(lambda: model.set_adapter("bare"))
    _until(lambda: len(model._lock._queue) == 2)
    assert not results
    assert not done
    release.set()
    for thread in (first, forward, second):
        thread.join(30)
        assert not thread.is_alive()
    assert torch.equal(results[0], alone["sparse"](images))  # pyright: ignore
    assert done == [None]
    assert_same_bits(model.model, alone["bare"])


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_predict_runs_forwards_of_its_own_thread_within(model: JackpotModel, images: Tensor) -> None:
    inner: list[Tensor] = []

    def nested(*_: object) -> None:
        if not inner:
            inner.append(torch.empty(0))
            inner.append(model(images))

    model.model.layer2.register_forward_pre_hook(nested)  # pyright: ignore
    thread, results = _in_thread(lambda: model.predict(images, ["bare"] * 6))
    thread.join(30)
    assert torch.equal(results[0], inner[1])  # pyright: ignore


def test_switches_get_their_turn_while_two_threads_forward_without_a_pause(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    names = ("sparse", "five", "bare", None, "plain")
    expected = {name: alone[name](images) for name in names}
    stop = threading.Event()

    def serve() -> int:
        served = 0
        while not stop.is_set():
            logits = model(images)
            assert any(torch.equal(logits, known) for known in expected.values())
            served += 1
        return served

    threads = [_in_thread(serve) for _ in range(2)]
    begin = time.monotonic()
    for i in range(100):
        model.set_adapter(names[i % 5])
        assert model.active_adapter == names[i % 5]
    took = time.monotonic() - begin
    stop.set()
    for thread, results in threads:
        thread.join(30)
        assert not thread.is_alive()
        assert isinstance(results[0], int), results
        assert results[0] > 10
    assert took < 60
    assert torch.equal(model(images), expected["plain"])


@torch.inference_mode()
def _each_by_itself(alone: dict[str | None, nn.Module], images: Tensor, names: list[str | None]) -> list[Tensor]:
    rows: dict[int, Tensor] = {}
    for name in set(names):
        chosen = [i for i, other in enumerate(names) if other == name]
        rows |= zip(chosen, alone[name](images[chosen]), strict=True)
    return [rows[i] for i in range(len(names))]


def test_mixed_predictions_from_four_threads_all_answer(
    model: JackpotModel, alone: dict[str | None, nn.Module], images: Tensor
) -> None:
    plans: list[list[str | None]] = [
        ["plain", "bare", None, "sparse", "bare", "plain"],
        ["five", "plain", "seven", "five", None, "seven"],
        ["plain"] * 6,
        [None, "own_head", "own_head", "masked_head", None, "own_head"],
    ]
    expected = [_each_by_itself(alone, images, plan) for plan in plans]

    def ask(which: int) -> int:
        for _ in range(20):
            for row, known in zip(model.predict(images, plans[which]), expected[which], strict=True):
                assert torch.equal(row, known)
        return 20

    threads = [_in_thread(lambda which=which: ask(which)) for which in range(4)]
    begin = time.monotonic()
    for name in ("bare", "plain") * 5:  # a fifth thread gets its turn too
        model.set_adapter(name)
    for thread, results in threads:
        thread.join(60)
        assert results == [20]
    assert time.monotonic() - begin < 60
    assert model.active_adapter == "plain"
    assert_same_bits(model.model, alone["plain"])


def test_the_lock_is_first_come_first_served() -> None:
    lock, order = FairLock(), []

    def take(number: int) -> None:
        with lock.hold(exclusive="a switch" if number % 2 else ""):
            order.append(number)

    threads = []
    with lock.hold(exclusive="a switch"):
        for number in range(6):
            threads.append(_in_thread(lambda number=number: take(number))[0])
            _until(lambda waiting=number + 1: len(lock._queue) == waiting)
    for thread in threads:
        thread.join(30)
    assert order == [*range(6)]


def test_who_stops_waiting_for_the_lock_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(lock._changed, "wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt), lock.hold(exclusive="a switch"):
        pytest.fail("it was never held")
    monkeypatch.undo()
    for alone in ("", "a switch", ""):
        with lock.hold(alone):
            assert not lock._queue
            assert not copy.deepcopy(lock)._holders  # a copy is in nobody's use
    assert not lock._holders


# -- the page ---------------------------------------------------------------------------------------


def test_the_lines_in_the_docs_run(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    shutil.copytree(HUB_CARD, tmp_path / "my_jackpot")
    shutil.copytree(folders["five"], tmp_path / "another_jackpot")
    monkeypatch.chdir(tmp_path)
    names = {"images": torch.rand(3, 3, 32, 32)}
    exec(code[1], names)
    assert [len(row) for row in names["logits"]] == [10, 5, 10]
    assert names["model"].active_adapter == "another"  # pyright: ignore


def test_errors_are_one_tree() -> None:
    assert issubclass(ServingError, ValueError)
    assert not issubclass(ServingError, ConfigError)
