"""Exports: exact removal of dead channels, formats that open elsewhere, refusals that write nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from timm_jackpot import JackpotConfig, export_jackpot, from_pretrained, get_jackpot_model, load_exported
from timm_jackpot.artifact import read_artifact
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.evaluation.images import class_names
from timm_jackpot.evidence import read_exports
from timm_jackpot.export import checkpoints, measure, registry
from timm_jackpot.export import shrink as shrink_module
from timm_jackpot.export.__main__ import main
from timm_jackpot.export.csr import SparseRows
from timm_jackpot.export.shrink import shrink
from timm_jackpot.export.two_of_four import layers_with_two_of_four
from timm_jackpot.hub import render_card
from timm_jackpot.hub.push import publishable

FAMILIES = ("cifar_resnet20", "test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_byobnet")
TIMM_ADAPTS = ("cifar_resnet20", "test_resnet", "test_efficientnet", "test_byobnet")


@pytest.fixture(autouse=True)
def _few_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PAIRS", {1: 2, 32: 2})


def with_dead_filters(name: str, *, share: float = 0.5) -> tuple[nn.Module, Tensor]:
    """A network of random weights, of which many are zero and some filters have nothing else, and images for it."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)  # pyright: ignore
            module.running_var.uniform_(0.5, 2)  # pyright: ignore
            module.bias.normal_(0, 0.3)
    for parameter in network.parameters():
        if parameter.dim() > 1 and len(parameter) > 5:
            parameter.mul_(torch.rand_like(parameter) > 0.8)
            parameter[torch.rand(len(parameter)) < share] = 0
    size = {"test_vit": 160, "vit_tiny_patch16_224": 224}.get(name, 32)
    return network, torch.randn(6, 3, size, size)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_without_its_dead_channels_a_network_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    network, images = with_dead_filters(name)
    small, shrinkage = shrink(network, images)
    wanted = network(images)
    assert float((small(images) - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert sum(shrinkage.removed.values()) > 0
    assert parameters(small) < parameters(network)
    small, shrinkage = shrink(network, images, multiple=8)
    described = export_jackpot(network, tmp_path / "small", format="shrunk", images=images)
    assert torch.equal(load_exported(tmp_path / "small")(images), small(images))
    assert described["notes"]["removed_channels"] == shrinkage.removed
    assert described["bytes_after"]["disk"] < described["bytes_before"]["disk"]
    assert [one["batch"] for one in described["beside_whole"]] == [1, 32]
    if described["notes"]["timm_alone_opens_it"]:
        whole = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=False)
        adapted = timm.models.adapt_model_from_string(whole, (tmp_path / "small" / "pruned.txt").read_text()).eval()
        adapted.load_state_dict(load_file(tmp_path / "small" / "model.safetensors"))
        assert torch.equal(adapted(images), small(images))
    assert described["notes"]["timm_alone_opens_it"] == (name in TIMM_ADAPTS)
    export_jackpot(network, tmp_path / "whole", images=images)
    opened = timm.create_model(f"local-dir:{tmp_path / 'whole'}", pretrained=True).eval()
    assert torch.equal(opened(images), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_runtimes_give_the_same_logits(name: str, format: str, tmp_path: Path) -> None:  # noqa: A002
    pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    network, images = with_dead_filters(name)
    described = export_jackpot(network, tmp_path / format, format=format, images=images)
    assert described["relative_difference"] <= 1e-4
    assert described["notes"]["removed_channels"]
    assert [one["batch"] for one in described["beside_whole"]] == [1, 32]


@pytest.mark.parametrize("name", FAMILIES)
def test_sparse_rows_give_the_same_logits(name: str, tmp_path: Path) -> None:
    network, images = with_dead_filters(name)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (1, 1)]
    for layer in linear:
        layer.weight.mul_(torch.rand_like(layer.weight) > 0.9)  # pyright: ignore
    described = export_jackpot(network, tmp_path / "sparse", format="sparse-csr", images=images)
    opened = load_exported(tmp_path / "sparse")
    sparse = [name for name, module in opened.named_modules() if isinstance(module, SparseRows)]
    assert sparse == described["notes"]["sparse_layers"] != []
    assert torch.allclose(opened(images), network(images), rtol=1e-4, atol=1e-5)
    if len(sparse) > 4:
        assert described["bytes_after"]["disk"] < described["bytes_before"]["disk"]


def test_sparse_rows_that_lie_are_refused(tmp_path: Path) -> None:
    network = timm.create_model("digits_resnet").eval().requires_grad_(False)
    with pytest.raises(ConfigError, match="no linear layer or 1×1 convolution of this network has 15 %"):
        export_jackpot(network, tmp_path / "x", format="sparse-csr")
    assert list(tmp_path.iterdir()) == []
    network.fc.weight[:, 3:] = 0  # pyright: ignore
    export_jackpot(network, tmp_path / "x", format="sparse-csr")
    state = load_file(tmp_path / "x" / "model.safetensors")
    columns = state["fc.col_indices"]
    for lie in (columns + 2**30, columns.long() + 2**32):
        save_file({**state, "fc.col_indices": lie}, tmp_path / "x" / "model.safetensors")
        with pytest.raises(ArtifactError, match=r"does not hold an exported network: .*col_indices"):
            load_exported(tmp_path / "x")
    save_file(state, tmp_path / "x" / "model.safetensors")
    (tmp_path / "x" / "sparse_layers.json").write_text('["nope"]')
    with pytest.raises(ArtifactError, match=r"does not hold an exported network: .*nope"):
        load_exported(tmp_path / "x")


def test_a_layer_whose_weight_is_read_without_calling_it_stays_dense(tmp_path: Path) -> None:
    network = timm.create_model("beit_base_patch16_224", embed_dim=64, depth=1, num_heads=2, num_classes=5).eval()
    for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
        layer.weight.data.mul_(torch.rand_like(layer.weight) > 0.95)
    described = export_jackpot(network, tmp_path / "x", format="sparse-csr")
    assert "blocks.0.mlp.fc1" in described["notes"]["sparse_layers"]
    assert "blocks.0.attn.qkv" not in described["notes"]["sparse_layers"]


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in FAMILIES
            if name not in ("cifar_resnet20", "test_vit")
        ),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow),  # test_vit resamples its position embedding
    ],
)
def test_core_ml_stores_the_kept_weights_only(name: str, tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    network, images = with_dead_filters(name, share=0)
    described = export_jackpot(network, tmp_path / "apple", format="coreml", images=images)
    assert described["bytes_after"]["disk"] < 0.5 * described["bytes_before"]["disk"]
    program = coremltools.utils.load_spec(str(tmp_path / "apple" / "model.mlpackage")).mlProgram
    operations = program.functions["main"].block_specializations["CoreML6"].operations
    sparse = [one for one in operations if one.type == "constexpr_sparse_to_dense"]
    assert len(sparse) == sum(p.numel() > 2048 and bool((p == 0).any()) for p in network.parameters())
    if sys.platform == "darwin":
        assert described["relative_difference"] <= 1e-4
        return
    assert described["compared_on"] == "nothing: Core ML runs on macOS only"
    assert described["speed"] == "not measured: Core ML runs on macOS only"
    assert described["beside_torch"] == []


def with_two_of_four() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=5).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.dim() == 2 and parameter.shape[1] % 4 == 0:
            parameter.view(len(parameter), -1, 4)[..., [0, 2]] = 0
    return network


def test_two_of_four_is_refused_without_sparse_tensor_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_two_of_four()
    assert len(layers_with_two_of_four(network)) == 24  # four in each of six blocks
    network.blocks[0].attn.qkv.weight[0, :3] = 1  # pyright: ignore
    assert "blocks.0.attn.qkv" not in layers_with_two_of_four(network)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="and this machine has none: export there, or choose another --format"):
        export_jackpot(network, tmp_path / "x", format="2:4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_two_of_four_gives_the_same_logits_on_sparse_tensor_cores(tmp_path: Path) -> None:
    network = with_two_of_four()
    described = export_jackpot(network, tmp_path / "x", format="2:4")
    assert len(described["notes"]["sparse_layers"]) == 24
    assert [one["batch"] for one in described["beside_whole"]] == [1, 32]
    assert load_exported(tmp_path / "x")(torch.randn(2, 3, 160, 160).cuda().half()).shape == (2, 5)


class Constants(nn.Module):
    """A padded convolution reads eight channels, of which four are constant and not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.norm(self.first(x))))
        return self.last(self.reduce(x))

    def reduce(self, x: Tensor) -> Tensor:
        return x.relu().mean((2, 3))


def constants(kind: type[Constants] = Constants) -> tuple[Constants, Tensor]:
    torch.manual_seed(0)
    network = kind().eval().requires_grad_(False)
    network.first.weight[2:6] = 0
    network.norm.bias[2:6] = torch.tensor([0.5, -1.0, 2.0, 1.0])  # the second one is zero behind the relu
    network.first.bias[2:6] = 0  # pyright: ignore
    return network, torch.randn(3, 3, 6, 6)


def test_constants_go_into_one_channel_which_is_exact_at_padded_borders_too() -> None:
    network, images = constants()
    small, shrinkage = shrink(network, images)
    assert shrinkage.removed == {"first": 3}
    assert torch.allclose(small(images), network(images), rtol=1e-6, atol=1e-6)
    assert int(network.first.weight.count_nonzero()) == 4 * 27  # the network itself is as it was


def test_a_wrong_fold_is_noticed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = with_dead_filters("cifar_resnet20")
    right = shrink_module._dead

    def without_constants(*arguments: Any) -> Any:
        dead = right(*arguments)
        dead.shares.zero_()
        return dead

    monkeypatch.setattr(shrink_module, "_dead", without_constants)
    with pytest.raises(ConfigError, match="dead channels of this network cannot be removed"):
        export_jackpot(network, tmp_path / "wrong", format="shrunk", images=images)
    assert list(tmp_path.iterdir()) == []


class Sorting(Constants):
    def reduce(self, x: Tensor) -> Tensor:
        return x.cumsum(1).mean((2, 3))


class Grouped(Constants):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(8, 4, 3, padding=1, groups=2)


class Standardized(Constants):
    def __init__(self) -> None:
        super().__init__()
        from timm.layers.std_conv import StdConv2d

        self.second = StdConv2d(8, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("kind", "layer", "why"),
    [
        (Sorting, "second", "Cumsum"),
        (Grouped, "first", r"second \(Conv2d\)"),
        (Standardized, "first", r"second \(StdConv2d\)"),
    ],
)
def test_what_is_not_understood_stays_and_is_named(kind: type[Constants], layer: str, why: str) -> None:
    network, images = constants(kind)
    network.second.weight[1] = 0
    small, shrinkage = shrink(network, images)
    assert torch.allclose(small(images), network(images), atol=1e-6)
    assert layer not in shrinkage.removed
    assert list(shrinkage.left) == [layer]
    assert re.search(why, shrinkage.left[layer])


class Offset(Constants):
    """Adds a buffer, of which torch_pruning knows nothing."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.relu(self.norm(self.first(x))) + self.offset)
        return self.last(self.reduce(x))


def test_a_network_that_cannot_be_shrunk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WIDTHS", 1)
    network, images = constants(Offset)
    with pytest.raises(ConfigError, match="Offset is not a timm classifier"):
        export_jackpot(network, tmp_path / "x", images=images)
    network.pretrained_cfg, network.num_classes = {"architecture": "offset"}, 2  # pyright: ignore
    with pytest.raises(ConfigError, match="dead channels of this network cannot be removed: "):
        export_jackpot(network, tmp_path / "x", format="shrunk", images=images)
    assert list(tmp_path.iterdir()) == []


class MeanGate(Constants):
    """Shut on most images, and reads channels that no layer reads."""

    shut = -1.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.last(self.reduce(self.second(x + F.relu(x.mean(1, keepdim=True) + self.shut))))


def test_what_is_shut_on_all_images_is_opened_to_see_whether_a_channel_is_dead() -> None:
    network, images = constants(MeanGate)
    network.second.weight[:, 6:] = 0
    assert float(F.relu(network.norm(network.first(images))).mean(1).max()) < 1.5
    with pytest.raises(ConfigError, match="torch-pruning does not see what reads them"):
        shrink(network, images)


class Skip(Constants):
    """What it adds to constants is shut on small images."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.reduce(self.second(F.relu(self.first(x) + x[:, :1]))))


def test_a_constant_that_other_images_move_stays() -> None:
    network, images = constants(Skip)
    network.first.bias[2:6] = -6  # pyright: ignore
    small, shrinkage = shrink(network, images)
    assert torch.equal(small(20 * images), network(20 * images))
    assert shrinkage.removed == {}


def test_in_inference_mode_it_shrinks_too() -> None:
    network, images = constants()
    with torch.inference_mode():
        assert shrink(network, images)[1].removed == {"first": 3}


@pytest.mark.parametrize("shape", [(0, 3, 160, 160), (3, 160, 160), (2, 1, 160, 160), (2, 3, 40, 40)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    network = timm.create_model("test_vit").eval()
    with pytest.raises(ConfigError, match=r"does not take images of shape|at least one image"):
        export_jackpot(network, tmp_path / "x", images=torch.zeros(shape))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def jackpot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits jackpot with a new head of three named classes."""
    net = timm.create_model("digits_resnet", pretrained=True)
    net.fc = nn.Linear(net.num_features, 3)  # pyright: ignore
    model = get_jackpot_model(net, JackpotConfig(sparsity=0.5, class_names=("zero", "one", "two")))
    return model.save_pretrained(tmp_path_factory.mktemp("export") / "jackpot")


def test_a_dense_export_opens_in_timm_with_its_class_names(jackpot: Path, tmp_path: Path) -> None:
    described = export_jackpot(from_pretrained(jackpot), tmp_path / "dense")
    assert described["compared_on"] == "noise"
    assert sorted(p.name for p in (tmp_path / "dense").iterdir()) == ["config.json", "export.json", "model.safetensors"]
    opened = timm.create_model(f"local-dir:{tmp_path / 'dense'}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened(images), from_pretrained(jackpot)(images))
    assert class_names(opened) == {0: "zero", 1: "one", 2: "two"}
    assert json.loads((tmp_path / "dense" / "config.json").read_text())["num_classes"] == 3


def test_an_onnx_export_takes_batches_of_any_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = timm.create_model("digits_resnet", pretrained=True).eval()
    images = torch.rand(4, 3, 32, 32)
    described = export_jackpot(network, tmp_path / "onnx", format="onnx", images=images)
    assert described["speed_by_mask"].startswith("none: nothing was removed")
    assert json.loads((tmp_path / "onnx" / "export.json").read_text()) == {
        key: value for key, value in described.items() if key != "folder"
    }
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    for n in (1, 3):
        (logits,) = session.run(None, {"images": images[:n].numpy()})
        assert torch.allclose(torch.from_numpy(logits), network(images[:n]), atol=1e-4)


def test_the_verb_says_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Path(__file__).parents[1] / "hubcards" / "digits"
    words = ["export", str(released), str(tmp_path / "e"), "--format", "shrunk", "--images", "8"]
    monkeypatch.setattr("sys.argv", words)
    summary = main()
    assert summary["compared_on"] == "test images"
    assert summary["images"] == 8
    assert summary["open_with"] == 'timm_jackpot.load_exported("FOLDER")'


def test_an_export_beside_its_mask_is_shown_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(Path(__file__).parents[1] / "hubcards" / "digits", folder, ignore=shutil.ignore_patterns("exports"))
    for name in ("dense", "shrunk"):
        monkeypatch.setattr("sys.argv", ["export", str(folder), "--format", name, "--images", "0"])
        main()
    artifact = read_artifact(folder)
    assert [report.format for report in read_exports(artifact)] == ["dense", "shrunk"]
    published = [name for name in publishable(artifact) if name.startswith("exports/")]
    assert published == ["exports/dense/export.json", "exports/shrunk/export.json"]  # and no weights
    card = render_card(artifact)
    table = card[card.index("## How it runs elsewhere") : card.index("## How it was found")]
    assert re.search(
        r"\| `dense` \| torch [\w.+]+ \| [\d,]+ \| [\d,]+ \| [\d.]+ \(torch: [\d.]+\) \|.*\| none \|", table
    )
    report = folder / "exports" / "dense" / "export.json"
    honest = report.read_text()
    for lie, why in (
        (honest.replace(artifact.config.mask_hash, "0" * 64), "is of a different mask"),
        (honest.replace('"torch ', '"<b>torch '), "is not valid at runtime"),
    ):
        report.write_text(lie)
        with pytest.raises(ArtifactError, match=f"^exports/dense/export.json {why}"):
            render_card(artifact)
    report.unlink()
    report.symlink_to(folder / "exports" / "shrunk" / "export.json")
    assert [report.format for report in read_exports(artifact)] == ["shrunk"]


def test_bad_input_is_one_sentence_and_writes_nothing(
    jackpot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model("digits_resnet").eval()
    with pytest.raises(
        ConfigError,
        match="there is no format 'tflite': choose one of dense, shrunk, sparse-csr, 2:4, onnx, openvino, coreml",
    ):
        export_jackpot(network, tmp_path / "x", format="tflite")
    with pytest.raises(ArtifactError, match="is not an empty folder"):
        export_jackpot(network, jackpot)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package torch-pruning: pip install 'timm-jackpot\[export\]'"):
        export_jackpot(network, tmp_path / "x", format="shrunk")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArtifactError, match="does not hold an exported network"):
        load_exported(tmp_path)


def test_a_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    network = timm.create_model("digits_resnet").eval().requires_grad_(False)
    network.fc.weight.fill_(torch.nan)  # pyright: ignore
    with pytest.raises(ConfigError, match="logits that are not finite"):
        export_jackpot(network, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
