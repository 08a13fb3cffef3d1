"""Data and files: reading a batch, loading an artifact, coding masks."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load, save, save_file
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from timm.data.transforms_factory import create_transform
from torch import Tensor

from timm_jackpot.artifact import Jackpot, from_pretrained, save_pretrained
from timm_jackpot.base import load_base, maskable_weights
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.steps import build, search_step
from timm_jackpot.criteria import magnitude
from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.open import data_config
from timm_jackpot.masks import MaskSet, allocate, decode_compact, encode_compact, keep_largest, pack, unpack
from timm_jackpot.runtime.paired import Ratio, paired_ratio
from timm_jackpot.runtime.processes import Shard

_IMAGES = 10_000
_FILES = 64


def data_path_ratio(name: str, config: BenchConfig) -> Ratio:
    """Reading and augmenting a batch of in-memory images over a search step on it."""
    channels, size = 3, config.img_size
    n = max(_IMAGES, config.batch_size)
    images = torch.randint(256, (n, channels, size, size), dtype=torch.uint8, device=config.device)
    labels = torch.zeros(n, dtype=torch.int64, device=config.device)
    source = MemoryImages(images, labels, (0.5,) * channels, (0.25,) * channels, 0.5, size // 8)
    batches = source.train_batches(seed=0, batch_size=config.batch_size, shard=Shard())
    return paired_ratio(lambda: next(batches), search_step(build(name, config), config), pairs=config.pairs, warmup=2)


def image_files_ratio(name: str, config: BenchConfig) -> Ratio:
    """Reading, cropping and batching JPEG files of 500 × 375 pixels over timm's own loader, both in one process."""
    size = 3, config.img_size, config.img_size
    transform = {"input_size": size, "is_training": True, "color_jitter": None}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "class")
        folder.mkdir()
        for number in range(_FILES):
            coarse = torch.randint(256, (10, 8, 3), dtype=torch.uint8).numpy()  # smooth, as photographs are
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
        ours = LoaderImages(
            create_dataset("", temporary),
            torch.arange(_FILES),
            create_transform(**transform),  # pyright: ignore
            create_transform(size),  # pyright: ignore
            workers=0,
            device=torch.device("cpu"),
        )
        theirs = create_loader(
            create_dataset("", temporary),  # pyright: ignore
            batch_size=config.batch_size,
            num_workers=0,
            use_prefetcher=False,
            **transform,
        )

        first = ours.train_batches(seed=0, batch_size=config.batch_size, shard=Shard())
        second = itertools.chain.from_iterable(theirs for _ in itertools.count())
        return paired_ratio(lambda: next(first), lambda: next(second), pairs=config.pairs, warmup=2)


def load_ratio(name: str, config: BenchConfig) -> Ratio:
    """`from_pretrained` of a local artifact over `timm.create_model` with the same local weights."""
    with tempfile.TemporaryDirectory() as temporary:
        weights, folder = Path(temporary) / "base.safetensors", Path(temporary) / "jackpot"
        save_file({n: t.contiguous() for n, t in timm.create_model(name).state_dict().items()}, weights)
        base = load_base(name, base_checkpoint=weights)
        maskable = maskable_weights(base.model)
        masks = _magnitude_masks(base.model)
        save_pretrained(Jackpot(base, maskable, masks, {}, "0.9", "global", data_config(base.model)), folder)
        del base, maskable, masks
        overlay = {"file": str(weights)}
        return paired_ratio(
            lambda: from_pretrained(folder, base_checkpoint=weights),
            lambda: timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay),
            pairs=config.pairs,
        )


def encode_ratio(name: str, config: BenchConfig) -> Ratio:
    """Packing the masks over writing the dense weights, both to bytes in memory."""
    model = timm.create_model(name)
    masks = _magnitude_masks(model)
    state = {n: t.contiguous() for n, t in model.state_dict().items()}
    return paired_ratio(
        lambda: save({n: pack(mask) for n, mask in masks.items()}), lambda: save(state), pairs=config.pairs
    )


def decode_ratio(name: str, config: BenchConfig) -> Ratio:
    """Reading and unpacking the masks over reading the dense weights, both from bytes in memory."""
    model = timm.create_model(name)
    masks = _magnitude_masks(model)
    shapes = {n: mask.shape for n, mask in masks.items()}
    ours = save({n: pack(mask) for n, mask in masks.items()})
    theirs = save({n: t.contiguous() for n, t in model.state_dict().items()})
    return paired_ratio(
        lambda: {n: unpack(packed, shapes[n]) for n, packed in load(ours).items()},
        lambda: load(theirs),
        pairs=config.pairs,
    )


def encode_compact_ratio(name: str, config: BenchConfig) -> Ratio:
    """Coding the masks on the ranks of the weights over writing the dense weights, both to bytes in memory."""
    model = timm.create_model(name)
    masks, weights = _moved_masks(model)
    state = {n: t.contiguous() for n, t in model.state_dict().items()}
    return paired_ratio(
        lambda: save({"compact": encode_compact(masks, weights)}), lambda: save(state), pairs=config.pairs
    )


def decode_compact_ratio(name: str, config: BenchConfig) -> Ratio:
    """Reading and decoding compact masks over reading the dense weights, both from bytes in memory."""
    model = timm.create_model(name)
    masks, weights = _moved_masks(model)
    sizes = {
        n: (mask.numel(), kept) for (n, mask), kept in zip(masks.items(), masks.kept_per_layer().values(), strict=True)
    }
    ours = save({"compact": encode_compact(masks, weights)})
    theirs = save({n: t.contiguous() for n, t in model.state_dict().items()})
    return paired_ratio(
        lambda: decode_compact(load(ours)["compact"], sizes).on(weights), lambda: load(theirs), pairs=config.pairs
    )


def _moved_masks(model: torch.nn.Module) -> tuple[MaskSet, Mapping[str, Tensor]]:
    """Masks about as far from the magnitude masks as a search goes: those themselves take next to nothing."""
    weights = maskable_weights(model).weights
    noise = {layer: torch.randn(weight.shape).mul_(0.35).exp_() for layer, weight in weights.items()}
    return _masks({layer: values * noise[layer] for layer, values in magnitude(weights).items()}), weights


def _magnitude_masks(model: torch.nn.Module) -> MaskSet:
    return _masks(magnitude(maskable_weights(model).weights))


def _masks(scores: Mapping[str, Tensor]) -> MaskSet:
    kept = allocate("global", scores, "0.9")
    return MaskSet({layer: keep_largest(values, kept[layer]) for layer, values in scores.items()})
