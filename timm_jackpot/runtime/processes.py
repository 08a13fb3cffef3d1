"""Accelerate: one process or many, and which of its features are refused."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedType,
    DynamoBackend,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    patch_environment,
    set_seed,
)

from timm_jackpot.errors import ConfigError, JackpotError, TrainingError
from timm_jackpot.runtime.log import log
from timm_jackpot.runtime.sharding import FSDP, asks_to_shard

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """This process among all: each rank reads its own part of every global batch."""

    rank: int = 0
    count: int = 1


def shard_of(accelerator: Accelerator) -> Shard:
    return Shard(accelerator.process_index, accelerator.num_processes)


_SUPPORTED = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
}
# Set by the launcher; checked before Accelerate is created, which would require their packages.
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
# Words in errors of gloo and NCCL, which do not have their own exception class on every backend.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out", "timeout")


def make_accelerator(
    *,
    seed: int,
    grad_accum_steps: int = 1,
    report_to: str | None = None,
    logs: Path | None = None,
    timeout: float = 1800.0,
    can_shard: bool = False,
    deterministic: bool = True,
) -> Accelerator:
    """The accelerator of a run, as set by the launcher's environment; seeds all random generators.

    Norm statistics are each rank's own while training (`average_norm_statistics` joins them), so DDP need
    not broadcast buffers in every forward. Gradients lie in DDP's buckets, not beside them.

    Args:
        report_to: name of one of Accelerate's trackers.
        logs: folder for a tracker that writes files.
        timeout: seconds that a process waits for the others; set by the first accelerator of a process.
        can_shard: whether this is a run that FSDP2 may shard (see `shard_trained`).
        deterministic: on a GPU, use convolutions that are repeatable instead of trying which are the fastest.

    Raises:
        ConfigError: for a kind of parallelism that would break scores or masks, or a tracker that is not installed.
    """
    for variable, name in _REFUSED.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes"):
            raise ConfigError(_unsupported(name))
    if asks_to_shard() and not can_shard:
        raise ConfigError("FSDP shards the scores of a search, and this is none: launch without --use_fsdp")
    if asks_to_shard() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("FSDP 1 splits frozen weights too: launch with --fsdp_version 2")
    trackers = {tracker.value for tracker in get_available_trackers()}
    if report_to is not None and report_to not in trackers:
        raise ConfigError(
            f"--report-to {report_to}: Accelerate knows no such tracker, or it is not installed; there are "
            f"{', '.join(sorted(trackers)) or 'none here'}"
        )
    # The fastest convolutions are not deterministic in their last bits.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic
    # Accelerate would shard every model that it prepares, frozen weights too.
    with patch_environment(**{FSDP: "false"}):
        accelerator = Accelerator(
            log_with=report_to,
            project_dir=None if logs is None else str(logs),
            gradient_accumulation_plugin=GradientAccumulationPlugin(grad_accum_steps, sync_with_dataloader=False),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
            ],
        )
    if accelerator.distributed_type not in _SUPPORTED:
        raise ConfigError(_unsupported(accelerator.distributed_type.value))
    compiler = accelerator.state.dynamo_plugin
    if compiler is not None and compiler.backend != DynamoBackend.NO:
        raise ConfigError(
            "Accelerate's dynamo plugin compiles after DDP, which breaks on parametrized modules: launch without "
            "--dynamo_backend"
        )
    set_seed(seed)
    return accelerator


def _unsupported(name: str) -> str:
    return f"{name} is not supported: use `accelerate launch --multi_gpu` (DDP) or `--use_fsdp --fsdp_version 2`"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held: on the GPU, or in all; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def launched_as_main() -> bool:
    """Whether the launcher started this process as the main one; for use without an accelerator."""
    return int(os.environ.get("RANK", "0")) == 0


def _many() -> bool:
    return torch.distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1


def leave_process_group() -> None:
    """Leave the process group at the very end; no accelerator of this process works afterwards."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def explain_lost_process(when: str = "") -> Iterator[None]:
    """Turn torch's error about a lost or unresponsive process into one sentence.

    Raises:
        TrainingError: if another process of this run was lost.
    """
    try:
        yield
    except RuntimeError as error:
        if _many() and any(word in str(error) for word in _LOST):
            why = "did not answer within --timeout" if "imed out" in str(error) else "was lost"
            raise TrainingError(
                f"another process of this run {why}{when}: see its last messages, then continue with --resume auto"
            ) from error
        raise


def say(text: str | None, accelerator: Accelerator) -> None:
    """Log a message on the main process; None logs nothing."""
    if text is not None and accelerator.is_main_process:
        log.info(text)


def described(accelerator: Accelerator) -> dict[str, Any]:
    """What results depend on besides settings and data: the number of processes, device and precision."""
    return {
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
    }


def same_everywhere(value: str, accelerator: Accelerator, what: str) -> list[str]:
    """Check that every rank holds the same value (such as a mask hash); returns the values by rank.

    Raises:
        TrainingError: naming the ranks that differ from rank 0.
    """
    values: list[str] = gather_object([value])
    differing = [rank for rank, other in enumerate(values) if other != values[0]]
    if differing:
        raise TrainingError(
            f"{what} of rank {', '.join(map(str, differing))} differs from rank 0's: the run is not usable"
        )
    return values


def from_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Run `action` on the main process only; every process gets its result.

    Raises:
        JackpotError: on every process, if `action` raised it.
    """
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = action()
        except JackpotError as error:
            found[1] = error
    value, error = broadcast_object_list(found)
    if error is not None:
        raise error
    return value
