"""Evaluate an artifact, or a dense base, on any dataset that timm reads."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.artifact import from_pretrained
from timm_jackpot.base import BaseFlags
from timm_jackpot.data import DataFlags, default_data_notice, open_split
from timm_jackpot.errors import ConfigError
from timm_jackpot.evaluation.accuracy import evaluate_accuracy
from timm_jackpot.runtime.processes import make_accelerator, say
from timm_jackpot.schema import Command


class EvaluateConfig(BaseFlags, DataFlags):
    """Top-1 and top-5 accuracy of a jackpot, or of a dense base (--model), on a test split."""

    group: ClassVar[str] = "Model"
    command: ClassVar[Command | None] = Command(
        "evaluate",
        (
            "my_jackpot",
            "user/name --data-dir flowers --test-split validation",
            "--model resnet50 --data-dir imagenet    # the dense base",
        ),
        basic=(
            *("artifact", "model", "base_checkpoint", "dataset", "data_dir", "test_split", "batch_size"),
            *("workers", "revision"),
        ),
    )

    artifact: str | None = Field(default=None, json_schema_extra={"positional": True})
    """An artifact folder, or the name of a Hub repo."""
    revision: str | None = None
    """Branch, tag or commit of the artifact's Hub repo."""
    trust_base: bool = False
    """Allow a base from outside timm's own repos, if the artifact names one."""


def evaluate_artifact(config: EvaluateConfig) -> dict[str, object]:
    """`{"model", "top1", "top5", "n"}` of an artifact or a dense base.

    Raises:
        JackpotError: if the artifact, the base or the data cannot be used.
    """
    accelerator = make_accelerator(seed=0)
    with accelerator.main_process_first():
        if config.artifact is None:
            name, model = config.model, config.load().model
        elif base_flags := sorted(
            config.model_fields_set & set(BaseFlags.model_fields) - {"base_checkpoint", "img_size"}
        ):
            raise ConfigError(f"--{base_flags[0].replace('_', '-')} goes with --model: an artifact names its own base")
        else:
            name = config.artifact
            model = from_pretrained(
                config.artifact,
                base_checkpoint=config.base_checkpoint,
                revision=config.revision,
                trust_base=config.trust_base,
            )
        say(default_data_notice(config, model), accelerator)
        model.to(accelerator.device)
        split = open_split(config, None, model, device=accelerator.device, img_size=config.img_size)
    accuracy = evaluate_accuracy(model, split, batch_size=config.batch_size, accelerator=accelerator)
    return {"model": name, **accuracy._asdict()}
