"""Every family of timm: what a mask covers in it, and that its zeros are zeros in the computation.

hubcards/COVERAGE.md says what was found. `pytest tests/test_coverage.py -m "slow or not slow"` proves every row of it
anew; with `--write-coverage` it writes the page.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import StdConv2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from timm_jackpot.adapter import ScoreAdapter, attach, detach, merge
from timm_jackpot.artifact import Extra, Jackpot, from_pretrained, save_pretrained
from timm_jackpot.base import (
    Base,
    DenseWeight,
    Maskable,
    build_skeleton,
    copy_tensors,
    load_base,
    maskable_weights,
    norm_statistics,
)
from timm_jackpot.data.open import data_config
from timm_jackpot.masks import MaskSet, allocate, keep_largest, kept_count

PAGE = Path(__file__).parents[1] / "hubcards" / "COVERAGE.md"
SPARSITY, MINIMUM, BATCH = "0.8", 16, 2

# Model → its family (timm's module), and an image size that it takes: 96 pixels where that is possible. Of each family
# the smallest variant, and RepVGG, whose branches timm may fuse.
VARIANTS = {
    "beit_base_patch16_224": ("beit", 96),
    "halonet_h1": ("byoanet", 256),
    "test_byobnet": ("byobnet", 96),
    "repvgg_a0": ("byobnet", 96),
    "cait_xxs24_224": ("cait", 224),
    "coat_tiny": ("coat", 96),
    "convit_tiny": ("convit", 224),
    "convmixer_768_32": ("convmixer", 96),
    "test_convnext": ("convnext", 96),
    "cpubone_nano": ("cpubone", 96),
    "crossvit_tiny_240": ("crossvit", 240),
    "csatv2": ("csatv2", 96),
    "cs3darknet_focus_s": ("cspnet", 96),
    "cspnext_tiny": ("cspnext", 96),
    "davit_tiny": ("davit", 96),
    "deepseek_vit_412m": ("deepseek_vit", 126),
    "deit_tiny_patch16_224": ("deit", 96),
    "densenet121": ("densenet", 96),
    "dla46x_c": ("dla", 96),
    "dpn48b": ("dpn", 96),
    "edgenext_xx_small": ("edgenext", 96),
    "efficientformer_l1": ("efficientformer", 224),
    "efficientformerv2_s0": ("efficientformer_v2", 224),
    "test_efficientnet": ("efficientnet", 96),
    "efficientvim_m1": ("efficientvim", 96),
    "efficientvit_b0": ("efficientvit_mit", 96),
    "efficientvit_m0": ("efficientvit_msra", 96),
    "vit_tiny_patch16_dinov3_qkvb": ("eva", 96),
    "fasternet_t0": ("fasternet", 96),
    "fastvit_t8": ("fastvit", 96),
    "focalnet_tiny_srf": ("focalnet", 96),
    "gcvit_xxtiny": ("gcvit", 224),
    "gemma4_vit_167m": ("gemma4_vit", 96),
    "ghostnet_050": ("ghostnet", 96),
    "hardcorenas_b": ("hardcorenas", 96),
    "hgnetv2_b0": ("hgnet", 96),
    "hiera_tiny_224": ("hiera", 224),
    "sam2_hiera_tiny": ("hieradet_sam2", 96),
    "hrnet_w18_small": ("hrnet", 96),
    "iformer_t": ("iformer", 96),
    "inception_next_atto": ("inception_next", 96),
    "inception_resnet_v2": ("inception_resnet_v2", 96),
    "inception_v3": ("inception_v3", 96),
    "inception_v4": ("inception_v4", 96),
    "lcnetv2_small": ("lcnetv2", 96),
    "levit_128s": ("levit", 224),
    "lowformer_b0": ("lowformer", 96),
    "test_mambaout": ("mambaout", 96),
    "test_coatnet": ("maxxvit", 96),
    "poolformerv2_s12": ("metaformer", 96),
    "gmlp_ti16_224": ("mlp_mixer", 224),
    "mobilenetv3_small_050": ("mobilenetv3", 96),
    "mobilenetv5_base": ("mobilenetv5", 96),
    "mobilevit_xxs": ("mobilevit", 96),
    "mvitv2_tiny": ("mvitv2", 96),
    "naflexvit_base_patch16_parfac_gap": ("naflexvit", 96),
    "nasnetalarge": ("nasnet", 96),
    "nest_tiny": ("nest", 224),
    "nextvit_small": ("nextvit", 96),
    "test_nfnet": ("nfnet", 96),
    "pit_ti_224": ("pit", 224),
    "pnasnet5large": ("pnasnet", 96),
    "pvt_v2_b0": ("pvt_v2", 96),
    "qwen3_vit_88m": ("qwen3_vit", 96),
    "rdnet_tiny": ("rdnet", 96),
    "regnetx_002": ("regnet", 96),
    "repghostnet_050": ("repghost", 96),
    "repvit_m1": ("repvit", 96),
    "res2next50": ("res2net", 96),
    "resnest14d": ("resnest", 96),
    "test_resnet": ("resnet", 96),
    "resnetv2_18": ("resnetv2", 96),
    "rexnet_100": ("rexnet", 96),
    "selecsls42": ("selecsls", 96),
    "legacy_seresnet18": ("senet", 96),
    "sequencer2d_s": ("sequencer", 96),
    "shvit_s1": ("shvit", 96),
    "skresnet18": ("sknet", 96),
    "starnet_s050": ("starnet", 96),
    "swiftformer_xs": ("swiftformer", 96),
    "swin_tiny_patch4_window7_224": ("swin_transformer", 96),
    "swinv2_tiny_window16_256": ("swin_transformer_v2", 96),
    "swinv2_cr_tiny_224": ("swin_transformer_v2_cr", 96),
    "tiny_vit_5m_224": ("tiny_vit", 96),
    "tnt_s_legacy_patch16_224": ("tnt", 96),
    "tresnet_m": ("tresnet", 96),
    "twins_svt_small": ("twins", 96),
    "vgg11": ("vgg", 96),
    "visformer_tiny": ("visformer", 224),
    "test_vit": ("vision_transformer", 96),
    "vit_tiny_r_s16_p8_224": ("vision_transformer_hybrid", 96),
    "test_vit_relpos": ("vision_transformer_relpos", 96),
    "samvit_base_patch16_224": ("vision_transformer_sam", 224),
    "vitamin_small_224": ("vitamin", 96),
    "volo_d1_224": ("volo", 224),
    "ese_vovnet19b_slim_dw": ("vovnet", 96),
    "legacy_xception": ("xception", 96),
    "xception41p": ("xception_aligned", 96),
    "xcit_nano_12_p8_224": ("xcit", 96),
}
QUICK = {
    *("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050", "regnetx_002"),
    *("vit_tiny_patch16_dinov3_qkvb", "levit_128s", "gmlp_ti16_224", "repvgg_a0"),
    "test_nfnet",
}

# Matrix products and convolutions, as they leave PyTorch's dispatcher.
PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear", "matmul"),
    *("convolution", "_convolution", "_native_multi_head_attention", "mkldnn_rnn_layer"),
}
COLUMNS = ("family", "model", "image size", "maskable layers", "maskable parameters", "left dense", "status")


# -- building ---------------------------------------------------------------------------------------


def write_random_weights(name: str, file: Path) -> None:
    """Save seeded random weights of a model, in which nothing is switched off.

    timm starts many branches at zero (LayerScale, the last norm of a block, biases): no gradient would reach past
    them, and all logits would be alike.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 0 and (_is_constant(parameter) or parameter.abs().max() < 1e-3):
                _redraw(parameter)
    save_file({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}, file)


def _is_constant(parameter: Tensor) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())


def _redraw(parameter: Tensor) -> None:
    middle = float(parameter.mean())
    scale = 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.3
    noise = torch.randn_like(parameter) * scale
    parameter.copy_(noise if abs(middle) < 1e-3 else middle * (1 + noise.clamp(-0.9, 0.9)))


def images_of(size: int) -> Tensor:
    return torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))


# -- independent evidence ---------------------------------------------------------------------------


class Arrivals(TorchDispatchMode):
    """Watches which elements of which weights reach a product, below everything that Python can override.

    A view shares its storage with the weight: such an argument *is* the weight, and what of it was read is marked
    element by element. Anything else that is made of a weight is another tensor, and does not count.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {_address(weight): name for name, weight in weights.items()}
        self._read = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
        self._elsewhere: set[str] = set()
        assert len(self._names) == len(weights)
        assert all(weight.is_contiguous() and weight.storage_offset() == 0 for weight in weights.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = {_address(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        for tensor in tree_leaves((args, kwargs)):
            name = self._names.get(_address(tensor)) if isinstance(tensor, Tensor) else None
            if name is None:
                continue
            if func.overloadpacket.__name__ in PRODUCTS:
                self._read[name].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
            elif _address(tensor) not in outputs:
                self._elsewhere.add(name)
        return result

    @property
    def lost(self) -> set[str]:
        """Weights of which an element reached no product, or which something else read as well."""
        return {name for name, read in self._read.items() if not read.all()} | self._elsewhere


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def weights_lost(model: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> set[str]:
    with torch.no_grad(), Arrivals(weights) as arrivals:
        model(images)
    return arrivals.lost


def test_a_weight_standardised_layer_is_seen_to_lose_its_zeros() -> None:
    model = nn.Sequential(StdConv2d(3, 8, 3), nn.Conv2d(8, 4, 3, bias=False))
    assert list(maskable_weights(model).weights) == ["1.weight"]
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(torch.rand(weight.shape) < 0.5)
    assert weights_lost(model, weights, images_of(16)) == {"0.weight"}


def test_a_weight_that_is_read_in_part_or_copied_or_idle_is_seen() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.part, self.copied, self.idle = (nn.Linear(12, 6) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)[:, :12]
            halves = [F.linear(x, half) for half in self.whole.weight.chunk(2)]
            return torch.cat(halves, 1) + F.linear(x, self.part.weight[:1]) + F.linear(x, self.copied.weight * 2)

    model = Reader()
    weights = {name: parameter for name, parameter in model.named_parameters() if name.endswith("weight")}
    assert weights_lost(model, weights, images_of(4)) == {"part.weight", "copied.weight", "idle.weight"}


# -- one family -------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the page."""

    family: str
    model: str
    size: str
    layers: str
    share: str
    dense: str
    status: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def prove(base: Base, maskable: Maskable, images: Tensor, folder: Path) -> Tensor:
    """Mask the base, save it to `folder`, and return its logits; all that the page promises, but the loading."""
    model = base.model
    with torch.no_grad():
        dense = model(images)
    before = fingerprint(model)
    generator = torch.Generator().manual_seed(2)
    scores = {name: torch.rand(shape, generator=generator) for name, shape in maskable.shapes.items()}
    kept = allocate("global", scores, SPARSITY, minimum=MINIMUM)
    assert sum(kept.values()) == kept_count(sum(maskable.sizes.values()), SPARSITY)
    # The masks themselves: scores that are equal at a threshold would all be kept until the masks are asked for.
    adapter = attach(model, {name: keep_largest(values, kept[name]).float() for name, values in scores.items()}, kept)
    del scores
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all()
    assert not torch.allclose(logits, dense), "masking four weights of five changed nothing"
    check_gradients(model, adapter, images)
    masks = adapter.masks()
    assert masks.kept_per_layer() == kept
    del adapter
    detach(model)
    assert fingerprint(model) == before, "detach left a trace"

    assert torch.equal(hand_zeroed_logits(model, masks, images), logits)
    merge(model, masks)
    with torch.no_grad():
        assert torch.equal(model(images), logits)
    check_zeros(model, masks, images)

    save(base, maskable, masks, folder)
    return logits


def fingerprint(model: nn.Module) -> list[tuple[str, str]]:
    """Names in order, with a hash of every value."""
    state = model.state_dict()
    return [(name, hashlib.sha256(tensor.contiguous().numpy().data).hexdigest()) for name, tensor in state.items()]


def check_gradients(model: nn.Module, adapter: ScoreAdapter, images: Tensor) -> None:
    """In train mode, but for what is random, every score learns: of kept weights and of removed ones."""
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
    output = model(images)
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    for name, layer in adapter.items():
        gradient = layer.scores.grad
        assert gradient is not None, f"no gradient reaches the scores of {name}"
        assert gradient.isfinite().all(), name
        assert gradient[layer.mask()].any(), f"no gradient reaches the kept weights of {name}"
        assert layer.mask().all() or gradient[~layer.mask()].any(), f"no gradient reaches the removed weights of {name}"
        layer.scores.grad = None
    model.eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])


def hand_zeroed_logits(model: nn.Module, masks: MaskSet, images: Tensor) -> Tensor:
    zeroed = copy.deepcopy(model)
    state = zeroed.state_dict()
    for name, mask in masks.items():
        state[name][~mask] = 0.0
    with torch.no_grad():
        return zeroed(images)


def check_zeros(model: nn.Module, masks: MaskSet, images: Tensor) -> None:
    """A merged model multiplies by its weights themselves, and those are zero where the masks say so."""
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for name in masks}
    assert weights_lost(model, weights, images) == set()
    for name, mask in masks.items():
        assert not weights[name][~mask].any(), name


def save(base: Base, maskable: Maskable, masks: MaskSet, folder: Path) -> None:
    statistics = copy_tensors(base.model, norm_statistics(base.model))
    jackpot = Jackpot(
        base=base,
        maskable=maskable,
        masks=masks,
        extras={name: Extra("norm_statistics", tensor) for name, tensor in statistics.items()},
        sparsity=SPARSITY,
        allocation="global",
        data=data_config(base.model),
    )
    save_pretrained(jackpot, folder)


def summary(dense: list[DenseWeight]) -> str:
    """Why weights are left dense, in a few words each, with how many there are."""
    counts = Counter(re.split("[:,]", weight.reason)[0] for weight in dense)
    return ", ".join(f"{reason} ×{count}" for reason, count in sorted(counts.items())) or "–"


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: the weights of all models would fill a disk."""
    yield tmp_path
    shutil.rmtree(tmp_path)
    gc.collect()


@pytest.mark.filterwarnings(  # timm's own, when it resamples tables of relative positions
    "ignore:torch.searchsorted:UserWarning", "ignore:Using a non-tuple sequence for multidimensional:UserWarning"
)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in VARIANTS])
def test_model(name: str, workplace: Path, request: pytest.FixtureRequest) -> None:
    family, size = VARIANTS[name]
    images, file, folder = images_of(size), workplace / "base.safetensors", workplace / "jackpot"
    write_random_weights(name, file)
    base = load_base(name, base_checkpoint=file, img_size=size)
    maskable = maskable_weights(base.model, images=images)
    share = sum(maskable.sizes.values()) / sum(parameter.numel() for parameter in base.model.parameters())
    row = Row(family, name, str(size), str(len(maskable.weights)), f"{share:.1%}", summary(maskable.dense), "fails")
    try:
        if maskable.weights:
            logits = prove(base, maskable, images, folder)
            del base, maskable
            with torch.no_grad():
                assert torch.equal(from_pretrained(folder, base_checkpoint=file)(images), logits)
            row = row._replace(status="pass")
        else:
            row = row._replace(status="refused: nothing to mask")
    finally:
        if request.config.getoption("--write-coverage"):
            write_page({**rows_of_page(), name: row})
    assert rows_of_page().get(name) == row, f"{PAGE.name} is out of date: write it anew with --write-coverage"


# -- the page ---------------------------------------------------------------------------------------


def timm_families() -> set[str]:
    """timm's own model modules (those of this package register themselves beside them)."""
    return {module for module in timm.list_modules() if find_spec(f"timm.models.{module}")}


def rows_of_page() -> dict[str, Row]:
    """By model."""
    if not PAGE.is_file():
        return {}
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return {row.model: row for row in (Row(*cells) for cells in lines[2:])}


def write_page(rows: Mapping[str, Row]) -> None:
    rows = {name: rows[name] for name in VARIANTS if name in rows}
    PAGE.write_text(head_of_page(rows) + "".join(f"{row}\n" for row in rows.values()), encoding="utf-8")


def head_of_page(rows: Mapping[str, Row]) -> str:
    """What was checked, and the totals."""
    families = {row.family for row in rows.values()}
    passed = {row.family for row in rows.values() if row.status == "pass"}
    refused = [row.model for row in rows.values() if row.status.startswith("refused")]
    failed = [row.model for row in rows.values() if row.status == "fails"]
    little = [f"{row.model} {row.share}" for row in rows.values() if float(row.share.rstrip("%")) < 10]
    return f"""# What can be masked in timm's models

timm {timm.__version__} has {len(families)} families of models (modules in `timm.models`). Of each the smallest \
variant stands here, and RepVGG: {len(rows)} models. {sum(row.status == "pass" for row in rows.values())} of them, in \
{len(passed)} families, pass every check; refused because there is nothing to mask: {listed(refused)}; failing: \
{listed(failed)}. A mask covers less than a tenth of the parameters of: {listed(little)}.

Each model was built with random weights, and masked at sparsity {SPARSITY}. `pass` says that all of this is so:

- **Masked is masked.** The model with scores attached, the merged one, and a copy with zeros written in by hand give \
the same logits bit for bit; they are finite, and not the dense model's.
- **Zeros stay zero.** Every layer keeps exactly as many weights as it should, and each masked weight was seen to \
arrive at a matrix product or convolution as it is stored, zeros included.
- **Scores learn.** In train mode a gradient reaches the scores of every layer, of kept and of removed weights.
- **No trace.** After `detach` every tensor is what it was, bit for bit.
- **Saved and loaded.** `from_pretrained` gives the same logits bit for bit.

Left dense are the classifier, what is not the weight of a convolution or linear layer, and weights of which a zero \
would not be a zero in the computation. A test proves each row anew, and writes this page: \
`pytest tests/test_coverage.py -m "slow or not slow" --write-coverage`.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""


def listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def test_every_family_of_timm_stands_on_the_page() -> None:
    assert {family for family, _ in VARIANTS.values()} == timm_families()
    rows = rows_of_page()
    assert {name: (row.family, int(row.size)) for name, row in rows.items()} == VARIANTS
    assert sum(row.status == "pass" for row in rows.values()) >= 0.95 * len(rows)


def test_the_head_of_the_page_counts_its_rows() -> None:
    assert PAGE.read_text(encoding="utf-8").startswith(head_of_page(rows_of_page()))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({family for family, _ in VARIANTS.values()}))
def test_the_smallest_variant_of_each_family_is_there(family: str) -> None:
    sizes = {
        name: sum(parameter.numel() for parameter in build_skeleton(name, {}).parameters())
        for name in timm.list_models(module=family)
    }
    assert min(sizes.values()) in {sizes[name] for name, (theirs, _) in VARIANTS.items() if theirs == family}
