"""FSDP2: scores, gradients and momenta are split over processes, and the mask is that of one process."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_processes import started
from torch import Tensor, nn
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from timm_jackpot.artifact import read_artifact
from timm_jackpot.base import build_skeleton
from timm_jackpot.errors import ConfigError
from timm_jackpot.masks import mask_overlap, threshold_of, thresholds_of_shards
from timm_jackpot.methods.find import copy_to_shard
from timm_jackpot.methods.start import Start
from timm_jackpot.runtime.sharding import blocks_of
from timm_jackpot.training import RunFlags

NETWORK = ["--model", "test_vit", "--no-pretrained", "--num-classes", "10", "--img-size", "32", "--dataset", "digits"]
# A learning rate at which many weights change sides.
SEARCH = [*NETWORK, "--train-norm", "--train-head", "--steps", "12", "--lr", "1", "--sparsity", "0.9"]
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
STOP = """
import os, signal
from timm_jackpot.cli import run_verb
from timm_jackpot.search import __main__ as verb
from timm_jackpot.training import RunState

after = RunState.after_step

def step(self, done, steps, state):
    if done == 5 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    after(self, done, steps, state)

RunState.after_step = step
run_verb(verb.main)
"""


@pytest.fixture
def group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "scores",
    [
        torch.randn(7, 13),
        torch.randn(50).round(),  # ties
        torch.tensor([0.0, -0.0, 1e-45, -1e-45, torch.inf, -torch.inf, 3e38, -3e38]),
        torch.tensor([1.0, torch.tensor(1.0).nextafter(torch.tensor(2.0)).item()]),
        torch.full((9,), -2.5),
    ],
)
def test_a_threshold_from_counts_is_the_one_from_all_scores(scores: Tensor, group: None) -> None:
    n = scores.numel()
    found = thresholds_of_shards([scores] * (n + 1), range(n + 1), [n] * (n + 1))
    for kept, threshold in enumerate(found):
        assert torch.equal(threshold, threshold_of(scores, kept))


def searched(count: int, folder: Path, *words: str, **environment: str) -> None:
    batch = ["--batch-size", str(48 // count), "--output", str(folder)]
    with started(count, ["-m", "timm_jackpot.search", *SEARCH, *batch, *words], **environment) as processes:
        ended = [process.communicate(timeout=200) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, ended


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_sharded_search_finds_the_mask_of_one_process(count: int, tmp_path: Path) -> None:
    searched(1, tmp_path / "alone")
    words = [*SEARCH, "--batch-size", str(48 // count), "--output", str(tmp_path / "sharded")]
    with started(count, ["-c", STOP, *words], **SHARDED) as processes:
        ended = [process.communicate(timeout=200) for process in processes]
        assert all("continue with --resume auto" in err for _, err in ended), ended
    (state,) = (tmp_path / "sharded" / "checkpoints").glob("step-*")
    sizes = [bytes_of(state / f"rank{rank}.safetensors") for rank in range(count)]
    scores = load_file(tmp_path / "alone-base.safetensors")
    maskable = sum(mask.numel() for mask in read_artifact(tmp_path / "alone").masks.values())
    assert maskable < sum(tensor.numel() for tensor in scores.values())
    for name in ("scores.", "optimizer."):
        of_ranks = [size[name] for size in sizes]
        assert sum(of_ranks) >= 4 * maskable, "nothing is missing"
        assert max(of_ranks) < 1.1 * sum(of_ranks) / count, "and nobody has more than a share"
    searched(count, tmp_path / "sharded", "--resume", "auto", **SHARDED)
    alone, sharded = (read_artifact(tmp_path / name).masks for name in ("alone", "sharded"))
    if count == 2:
        assert sharded.hash() == alone.hash()
    else:  # a mean of three is rounded differently
        assert sharded.kept_per_layer() == alone.kept_per_layer()
        assert mask_overlap(sharded, alone) > 0.9995
    summaries = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("alone", "sharded")]
    assert summaries[0]["base"] == summaries[1]["base"]


def test_sixteen_bits_of_the_wrong_kind_are_refused() -> None:
    task: Any = SimpleNamespace(run=RunFlags(), accelerator=SimpleNamespace(mixed_precision="fp16"))
    start = Start({}, {})
    with pytest.raises(
        ConfigError, match=r"^FSDP and fp16 do not go together here: launch with --mixed_precision bf16"
    ):
        copy_to_shard(nn.Linear(1, 1), start, task)
    task.accelerator.mixed_precision = "bf16"
    copy_to_shard(nn.Linear(1, 1), start, task)


def bytes_of(file: Path) -> dict[str, int]:
    """Bytes of a rank's shards, by what they are shards of."""
    found = {"scores.": 0, "optimizer.": 0}
    with safe_open(file, "pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            for prefix in found:
                if key.startswith(f"shard.{prefix}"):
                    found[prefix] += tensors.get_tensor(key).nbytes
    return found


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "coat_lite_tiny", "hrnet_w18_small", "twins_svt_small"])
def test_blocks_run_as_a_whole_and_share_no_module(name: str) -> None:
    model = build_skeleton(name, {})
    blocks = blocks_of(model)
    assert not any(isinstance(block, (nn.ModuleList, nn.ModuleDict)) for block in blocks)
    places = {id(block): place for place, block in enumerate(blocks)}
    for place, block in enumerate(blocks):
        assert all(places[id(inner)] <= place for inner in block.modules() if id(inner) in places), "inner ones first"
    owners = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    assert all(owners[id(module)] == 1 for block in blocks for module in block.modules())
    assert len(blocks) > 10 or name == "coat_lite_tiny"  # whose blocks all share their position encodings


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("name", ["coat_lite_tiny", "hrnet_w18_small", "digits_resnet"])
def test_other_networks_are_sharded_too(name: str, tmp_path: Path) -> None:
    network = f"--model={name} --no-pretrained --num-classes=10 --img-size=32 --dataset=digits --steps=2".split()
    found = []
    for words in (SHARDED, {}):
        output = tmp_path / str(len(found))
        command = ["-m", "timm_jackpot.search", *network, "--batch-size=8", "--output", str(output)]
        with started(2, command, **words) as processes:
            ended = [process.communicate(timeout=300) for process in processes]
            assert [process.returncode for process in processes] == [0, 0], ended
        found.append(read_artifact(output).masks)
    assert found[0].kept_per_layer() == found[1].kept_per_layer()
    assert mask_overlap(*found) > 0.9999  # the norm of a gradient is rounded differently


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_checkpoint_says_whether_it_is_sharded(tmp_path: Path) -> None:
    words = [*SEARCH, "--batch-size", "24", "--output", str(tmp_path / "j")]
    with started(2, ["-c", STOP, *words], **SHARDED) as processes:
        assert all("--resume auto" in process.communicate(timeout=200)[1] for process in processes)
    with started(2, ["-m", "timm_jackpot.search", *words, "--resume", "auto"]) as processes:
        for process in processes:
            assert "error: the checkpoint was made with FSDP: resume with it" in process.communicate(timeout=200)[1]


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--allocation", "2:4"], "FSDP shards the scores of single weights only: choose another --allocation"),
        (["--torchcompile"], "FSDP and --torchcompile do not go together here: leave one of them out"),
    ],
)
def test_what_cannot_be_sharded_is_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    command = ["-m", "timm_jackpot.search", *NETWORK, "--steps", "5", *words, "--output", str(tmp_path / "j")]
    with started(2, command, **SHARDED) as processes:
        ended = [process.communicate(timeout=200) for process in processes]
    for process, (_, err) in zip(processes, ended, strict=True):
        assert process.returncode == 2, err
        assert f"error: {sentence}" in err
    assert not (tmp_path / "j").exists()


GROWTH = """
import torch
from timm_jackpot.adapter import attach
from timm_jackpot.base import build_skeleton, maskable_weights
from timm_jackpot.benchmarks.memory import forget, resident
from timm_jackpot.runtime.processes import make_accelerator
from timm_jackpot.runtime.sharding import shard_trained, splits_trained

accelerator = make_accelerator(seed=0, can_shard=True)
model = build_skeleton("vit_small_patch16_224", {}, img_size=96).to_empty(device="cpu").requires_grad_(False)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
model(torch.randn(2, 3, 96, 96)).sum()  # libraries load what they need
forget(accelerator.device)
before = resident(accelerator.device)
weights = maskable_weights(model).weights
adapter = attach(model, {n: w.abs() for n, w in weights.items()}, {n: w.numel() // 2 for n, w in weights.items()})
if splits_trained(accelerator):
    shard_trained(model, accelerator)
optimizer = torch.optim.SGD(adapter.scores(), 0.1, momentum=0.9)
for _ in range(2):
    optimizer.zero_grad()
    model(torch.randn(2, 3, 96, 96)).square().mean().backward()
    optimizer.step()
forget(accelerator.device)
print((resident(accelerator.device) - before) / sum(weight.numel() for weight in weights.values()))
"""


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_process_holds_its_share_of_scores_gradients_and_momenta(count: int) -> None:
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # no holes in the heap
    with started(count, ["-c", GROWTH], **SHARDED, **exact) as processes:
        ended = [process.communicate(timeout=200) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, ended
    held = [float(out) for out, _ in ended]
    print(f"{count} processes hold {held} bytes for each weight")
    assert held == pytest.approx([12 / count] * count, abs=1)
