"""The benchmarks measure what they say; how fast it is, is RESULTS.md's affair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from timm_jackpot.adapter import adapter_of, detach
from timm_jackpot.benchmarks import BenchConfig, rows_table, run_benchmarks
from timm_jackpot.benchmarks.serving import dense_models, predict_each, serving_model
from timm_jackpot.benchmarks.steps import build, search_step
from timm_jackpot.errors import BaseError, ConfigError
from timm_jackpot.export import measure

SMALL = {"models": ["test_resnet"], "batch_size": 2, "img_size": 32, "pairs": 2, "tasks": [3]}


def test_every_benchmark_has_a_row_with_its_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = BenchConfig.model_validate(SMALL)
    rows = run_benchmarks(config)
    assert [row["what"] for row in rows] == list(config.what)
    for row in rows:
        serving, memory = row["what"].startswith("serve_"), row["what"].endswith("_memory")
        on_device = row["what"] != "serve_memory" and not row["what"].startswith(
            ("image_files", "load", "encode", "decode")
        )
        assert {**row, "ratio": 0, "ratio_min": 0, "ratio_max": 0, "ms": 0} == {
            "what": row["what"],
            "model": "test_resnet",
            "device": config.device.type if on_device else "cpu",
            "dtype": "float32",
            "ratio": 0,
            "ratio_min": 0,
            "ratio_max": 0,
            "n": 2,
            "ms": 0,
            **({"tasks": 3} if serving else {}),
        }
        assert row["ms"] is None if memory else row["ms"] > 0
        assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"]
        assert row["what"] == "search_memory" or row["ratio_min"] > 0
        assert f"{row['what']} " in rows_table(rows)
    per_task = next(row for row in rows if row["what"] == "serve_memory")
    assert per_task["ratio_min"] > 1 / 32, "one bit for each weight, and more"
    assert per_task["ratio_max"] < 0.5, "no dense copy"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_of_a_search_step_counts_every_byte_of_scores() -> None:
    row = run_benchmarks(
        BenchConfig.model_validate({**SMALL, "models": ["vit_small_patch16_224"], "what": ["search_memory"]})
    )[0]
    assert 3.7 < row["ratio"] < 4.3, row  # four for the score; nothing else adds to the peak


def test_a_search_step_trains_scores_alone_and_renews_masks_of_exact_counts() -> None:
    torch.manual_seed(0)
    config = BenchConfig.model_validate(SMALL)
    model = build("test_resnet", config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = search_step(model, config)
    adapter = adapter_of(model)
    kept, scores = adapter.masks().kept, [s.detach().clone() for s in adapter.scores()]
    for _ in range(2):
        step()
    assert adapter.masks().kept == kept
    assert all(not torch.equal(now, then) for now, then in zip(adapter.scores(), scores, strict=True))
    detach(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_exports_are_timed_by_kind_of_mask_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PAIRS", {1: 2, 32: 2})
    rows = run_benchmarks(
        BenchConfig.model_validate(
            {
                **SMALL,
                "what": ["export"],
                "allocations": ["uniform", "filters"],
                "sparsities": ["0.98"],
                "formats": ["shrunk", "sparse-csr"],
            }
        )
    )
    found = {(row["allocation"], row["format"], row["batch"]): row for row in rows}
    assert found.keys() == {
        (a, f, b) for a in ("uniform", "filters") for f in ("shrunk", "sparse-csr") for b in (1, 32)
    }
    assert all(0 < row["mask_ratio"][0] <= row["mask_ratio"][2] for row in rows)
    assert found["filters", "shrunk", 1]["bytes"] < 0.2
    (refused,) = run_benchmarks(BenchConfig.model_validate({**SMALL, "what": ["export"], "formats": ["2:4"]}))
    rows.append(refused)
    text = rows_table(rows)
    assert "export          test_resnet, erk 0.9, 2:4: " in text
    assert "export          test_resnet, uniform 0.98, sparse-csr, batch 32: " in text


def test_both_ways_to_serve_a_mixed_batch_give_the_same_logits() -> None:
    config = BenchConfig.model_validate(SMALL)
    model = serving_model("test_resnet", config, tasks=3)
    names = [model.adapter_names[i] for i in (1, 0, 2, 1, 1)]
    images = torch.randn(5, 3, 32, 32, device=config.device)
    routed = model.predict(images, names)
    assert isinstance(routed, torch.Tensor)
    assert routed.shape == (5, 102)
    assert torch.equal(routed, predict_each(dense_models(model), images, names))
    assert not torch.equal(routed, model.predict(images, names[1:] + names[:1]))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"what": ["speed"]}, ConfigError, "--what speed: there are search_step, "),
        ({"models": ["resnet51"]}, BaseError, "unknown model 'resnet51'"),
    ],
)
def test_what_is_not_there_is_said(given: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run_benchmarks(BenchConfig.model_validate({**SMALL, **given}))
