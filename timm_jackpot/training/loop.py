"""The training loop, through Accelerate, with hooks around each step. Knows nothing about scores or masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from timm_jackpot.data import ImageSource
from timm_jackpot.errors import TrainingError
from timm_jackpot.runtime.processes import shard_of
from timm_jackpot.runtime.progress import Progress
from timm_jackpot.runtime.sharding import is_sharded
from timm_jackpot.training.faults import explained
from timm_jackpot.training.mixing import Mixer
from timm_jackpot.training.objective import Objective
from timm_jackpot.training.record import Record
from timm_jackpot.training.throughput import Throughput

Hook = Callable[[int], None]


def fit(
    *,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    train: ImageSource,
    batch_size: int,
    seed: int,
    steps: int,
    lr_at: Callable[[int], float],
    record: Record,
    title: str,
    before_step: Hook = lambda step: None,
    after_step: Hook = lambda step: None,
    first_step: int = 0,
    figures: Callable[[], dict[str, float]] = dict,
    mix: Mixer | None = None,
    keep_in_eval: Sequence[nn.Module] = (),
    torchcompile: bool = False,
    channels_last: bool = False,
    log_every: int = 10,
) -> None:
    """Run `steps` optimizer steps on `model`, in train mode.

    The learning rate is `lr_at(step)`, times the `lr_scale` of the parameter group if it has one. Every `log_every`
    steps, the loss and `figures()` go to the progress display and, as "step" events, to the record. The last one,
    "speed", is about all steps but the first, hooks included.

    Args:
        model: any module, or one that `shard_trained` has sharded.
        before_step, after_step: called before and after each step with the number of steps done so far.
        first_step: number of steps done before the run was resumed; their batches are not read again.
        mix: called with the number of a batch in the run and the batch; returns the batch to train on.
        keep_in_eval: modules that stay in eval mode.

    Raises:
        TrainingError: if the loss is not a number, with the step and what to lower; and as in `explained`.
    """
    if is_sharded(model):
        wrapped, prepared = model, accelerator.prepare_optimizer(optimizer)
    else:
        # Before DDP: parametrized modules break if compiled after it.
        runnable = torch.compile(model) if torchcompile else model
        wrapped, prepared = accelerator.prepare(runnable, optimizer)
    wrapped.train()
    for module in keep_in_eval:
        module.eval()
    per_step = accelerator.gradient_accumulation_steps
    throughput = Throughput(accelerator, batch_size * per_step)
    read = train.train_batches(
        seed=seed, batch_size=batch_size, shard=shard_of(accelerator), first=first_step * per_step
    )
    batches = throughput.waits_for(read)

    def take_step(step: int) -> Tensor:
        loss = torch.zeros((), device=accelerator.device)
        for part_of_step in range(per_step):
            batch = next(batches)
            if mix is not None:
                batch = mix(step * per_step + part_of_step, batch)
            images, labels = batch
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with accelerator.accumulate(wrapped):
                with accelerator.autocast():
                    part = objective(wrapped, images, labels)
                accelerator.backward(part)
                prepared.step()
                prepared.zero_grad()
                loss += part.detach() / per_step
        return loss

    with Progress(
        steps, title, enabled=accelerator.is_main_process, done=first_step, figures=_latest(record)
    ) as progress:
        for step in range(first_step, steps):
            before_step(step)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step) * group.get("lr_scale", 1.0)
            with explained(step):
                loss = take_step(step)
            if step % log_every and step != steps - 1:
                progress.advance()
            else:
                value = loss.item()
                if not isfinite(value):
                    raise TrainingError(
                        f"the loss is not a number at step {step}: lower --lr (now {lr_at(step):g}), or turn off mixed "
                        "precision"
                    )
                record.write("step", step=step, lr=lr_at(step), loss=value, **figures())
                progress.advance(_latest(record))
            after_step(step + 1)
            throughput.step_done()
    if speed := throughput.figures():
        record.write("speed", **speed)
    if not is_sharded(model):
        # Under mixed precision Accelerate replaces the model's forward: restore it, and release its references.
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)
    accelerator.free_memory()


def _latest(record: Record) -> dict[str, float]:
    """The figures of the last step and the last validation in the record."""
    shown = {key: value for key, value in record.last("step").items() if key not in ("kind", "step", "lr")}
    validation = record.last("validation")
    return {**shown, "validation": validation["top1"]} if validation else shown
