"""Serving many tasks from one `JackpotModel`, beside one dense model per task."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from timm_jackpot import criteria
from timm_jackpot.artifact import Extra, Jackpot, save_pretrained
from timm_jackpot.base import classifier_parameters, load_base, maskable_weights, norm_statistics, save_random_weights
from timm_jackpot.benchmarks.config import BenchConfig
from timm_jackpot.benchmarks.memory import forget, in_own_process, resident
from timm_jackpot.data.open import data_config
from timm_jackpot.masks import MaskSet, allocate, keep_largest
from timm_jackpot.runtime.paired import Ratio, paired_ratio, spread
from timm_jackpot.serving import JackpotModel

_SPARSITY = "0.5"
_CLASSES = 102


def serve_memory(name: str, config: BenchConfig, tasks: int) -> Ratio:
    """Bytes of CPU memory that each further task takes over those of a dense model. No pairs: one figure per task.

    Raises:
        ConfigError: without Linux and glibc.
    """
    return in_own_process("serve_memory", _bytes_per_task, name, config, tasks)


def serve_switch_ratio(name: str, config: BenchConfig, tasks: int) -> Ratio:
    """A switch to the next task over the forward pass of one image."""
    model = serving_model(name, config, tasks)
    following, image = itertools.cycle(model.adapter_names), _images(1, model, config)

    @torch.inference_mode()
    def forward() -> Tensor:
        return model(image)

    next(following)  # the first one is active
    return paired_ratio(lambda: model.set_adapter(next(following)), forward, pairs=config.pairs, warmup=3)


def serve_routed_ratio(name: str, config: BenchConfig, tasks: int, *, images_per_task: int = 1) -> Ratio:
    """A mixed batch through `JackpotModel.predict` over the same batch through one dense model per task."""
    model = serving_model(name, config, tasks)
    dense = dense_models(model)
    names = images_per_task * model.adapter_names
    names = [names[i] for i in torch.randperm(len(names)).tolist()]
    images = _images(len(names), model, config)
    return paired_ratio(
        lambda: model.predict(images, names), lambda: predict_each(dense, images, names), pairs=config.pairs
    )


@contextmanager
def artifacts_of_tasks(name: str, config: BenchConfig, tasks: int) -> Iterator[tuple[Path, list[Path]]]:
    """The weights of a base, and artifacts on it: half of the weights kept at random, a new head, new statistics."""
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "base.safetensors"
        save_random_weights(name, weights, {}, img_size=config.img_size)
        base = load_base(name, base_checkpoint=weights, num_classes=_CLASSES, img_size=config.img_size)
        maskable, state = maskable_weights(base.model), base.model.state_dict()
        folders = []
        for task in range(tasks):
            scores = criteria.random(maskable.weights, seed=task)
            kept = allocate("uniform", scores, _SPARSITY)
            masks = MaskSet({layer: keep_largest(values, kept[layer]) for layer, values in scores.items()})
            extras = {
                n: Extra("norm_statistics", state[n] + torch.rand(state[n].shape)) for n in norm_statistics(base.model)
            }
            extras |= {n: Extra("head", torch.randn(p.shape)) for n, p in classifier_parameters(base.model).items()}
            jackpot = Jackpot(
                base, maskable, masks, extras, _SPARSITY, "uniform", data_config(base.model, config.img_size)
            )
            folders.append(save_pretrained(jackpot, Path(temporary) / f"task{task}"))
        yield weights, folders


def serving_model(name: str, config: BenchConfig, tasks: int) -> JackpotModel:
    """A model on the device with that many tasks in memory, the first one active."""
    with artifacts_of_tasks(name, config, tasks) as (weights, folders):
        model = JackpotModel.from_pretrained(folders[0], folders[0].name, base_checkpoint=weights)
        for folder in folders[1:]:
            model.load_adapter(folder, folder.name)
    return model.to(config.device)


def dense_models(model: JackpotModel) -> dict[str, nn.Module]:
    """A dense copy of the model for each of its adapters."""
    dense = {}
    for name in model.adapter_names:
        model.set_adapter(name)
        dense[name] = copy.deepcopy(model.model)
    return dense


@torch.inference_mode()
def predict_each(models: Mapping[str, nn.Module], images: Tensor, names: Sequence[str]) -> Tensor:
    """Logits [b, classes] of images [b, c, h, w]: each model is given its own images at once."""
    rows: dict[int, Tensor] = {}
    for name in dict.fromkeys(names):
        chosen = [i for i, other in enumerate(names) if other == name]
        rows.update(zip(chosen, models[name](images[chosen]), strict=True))
    return torch.stack([rows[i] for i in range(len(names))])


def _bytes_per_task(name: str, config: BenchConfig, tasks: int) -> Ratio:
    torch.manual_seed(0)  # a new process has another state
    cpu = torch.device("cpu")
    with artifacts_of_tasks(name, config, tasks) as (weights, folders):
        model = JackpotModel.from_pretrained(folders[0], folders[0].name, base_checkpoint=weights)
        dense = sum(tensor.nbytes for tensor in model.model.state_dict().values())
        held, ratios = [], []
        for folder in folders:
            if folder is not folders[0]:
                model.load_adapter(folder, folder.name)
            forget(cpu)
            held.append(resident(cpu))
    ratios = [(after - before) / dense for before, after in itertools.pairwise(held)]
    return spread(ratios)


def _images(n: int, model: JackpotModel, config: BenchConfig) -> Tensor:
    channels = resolve_model_data_config(model.model)["input_size"][0]
    return torch.randn(n, channels, config.img_size, config.img_size, device=config.device)
