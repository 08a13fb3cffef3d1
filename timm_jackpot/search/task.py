"""Build a task from settings: load the base and the data, find the maskable weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from timm.models import split_model_name_tag

from timm_jackpot.base import Base, Maskable, parse_model_kwargs, save_random_weights
from timm_jackpot.data import Data, ImageSource, default_data_notice, open_data, steps_per_epoch
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import MaskSet
from timm_jackpot.methods import Task, coverage_notice, find_maskable
from timm_jackpot.runtime.processes import Shard, say, shard_of
from timm_jackpot.search.config import RunConfig
from timm_jackpot.training import RunFlags, prepare_model, total_steps

_DEFAULT_EPOCHS = 30


def open_task(config: RunConfig, base: Base | None, accelerator: Accelerator) -> tuple[Task, bytes | None]:
    """Load base and data; with --no-pretrained, also return the random weights as the bytes of a safetensors file.

    Args:
        base: used instead of the base that `config` names.

    Raises:
        JackpotError: if the model, the data or the settings are not usable.
    """
    with accelerator.main_process_first():
        random_weights = None
        if base is None and config.pretrained:
            base = config.load()
        elif base is None:
            base, random_weights = _load_random_base(config)
        config.check_for(base)
        say(default_data_notice(config, base.model, steps=lambda n: steps_of(config, n, accelerator)), accelerator)
        data = open_data(config, base.model, device=accelerator.device, img_size=config.img_size)
    maskable = find_maskable(
        config, base, data.config["input_size"], allocation=config.allocation, strict=config.strict
    )
    say(coverage_notice(base, maskable), accelerator)
    if base.ref.source == "module" and not base.new_head:  # for other bases we know where the head comes from
        say(_idle_head_notice(base, data.train, config.batch_size), accelerator)
    return make_task(config, base, maskable, data, accelerator), random_weights


def make_task(
    config: RunConfig,
    base: Base,
    maskable: Maskable,
    data: Data,
    accelerator: Accelerator,
    jackpot: MaskSet | None = None,
) -> Task:
    """The task, its base frozen, in eval mode, and prepared as `config` says.

    Args:
        jackpot: masks that controls are controls of.
    """
    prepare_model(config, base.model.requires_grad_(False).eval(), accelerator.device)
    run = RunFlags(**{name: getattr(config, name) for name in RunFlags.model_fields})
    return Task(
        base, maskable, data, config.batch_size, accelerator, run=run, pretrained=config.pretrained, jackpot=jackpot
    )


def steps_of(config: RunConfig, images: int, accelerator: Accelerator) -> int:
    """Optimizer steps of a run on a training split of `images` images."""
    per_epoch = steps_per_epoch(images, config.batch_size, shard_of(accelerator))
    return total_steps(config, per_epoch, default_epochs=_DEFAULT_EPOCHS)


def _load_random_base(config: RunConfig) -> tuple[Base, bytes]:
    """The base's architecture with random weights, and those weights as the bytes of a safetensors file."""
    if config.base_checkpoint is not None:
        raise ConfigError("--no-pretrained and --base-checkpoint cannot be used together")
    architecture, _ = split_model_name_tag(config.model)
    changes = {"num_classes": config.num_classes, "in_chans": config.in_chans, "img_size": config.img_size}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "random.safetensors"
        save_random_weights(architecture, weights, parse_model_kwargs(config.model_kwargs), **changes)
        base = config.model_copy(update={"base_checkpoint": str(weights), "model": architecture}).load()
        return base, weights.read_bytes()


@torch.no_grad()
def _idle_head_notice(base: Base, train: ImageSource, batch_size: int) -> str | None:
    """A notice if a module classifies training images no better than always guessing the most frequent class.

    Its head may be new without `new_head=True`: then the head would not be trained, and would serve as the teacher.
    """
    batch = next(train.train_batches(seed=0, batch_size=min(batch_size, len(train)), shard=Shard()))
    device = next(base.model.parameters()).device
    answers = base.model.eval()(batch.images.to(device)).argmax(1).to(batch.labels.device)
    n, hits = len(batch.labels), int((answers == batch.labels).sum())
    commonest = int(batch.labels.bincount().max())
    if hits > commonest + 2 * (commonest * (1 - commonest / n)) ** 0.5:  # two standard deviations above a guess
        return None
    return (
        f"note: {base.ref.name} classifies {hits} of {n} training images correctly, no better than guessing: if its "
        "last layer is new, pass new_head=True to base_from_module, otherwise it is not trained"
    )
