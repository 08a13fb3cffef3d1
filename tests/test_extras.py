"""Extras in fewer bits: what is stored, how far it is from float32, and that what is measured is what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from test_artifact import make_jackpot

from timm_jackpot import inspect
from timm_jackpot.artifact import (
    Extra,
    ExtrasDtype,
    Jackpot,
    artifact_report,
    bytes_by_kind,
    from_pretrained,
    read_artifact,
    report_table,
    rounded_extra,
    save_pretrained,
)
from timm_jackpot.artifact.extras import encode_extra
from timm_jackpot.base import copy_tensors, load_base
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.experiments.comparison import CompareConfig, compare_masks
from timm_jackpot.hub import render_card
from timm_jackpot.search import SearchConfig, search_jackpot
from timm_jackpot.search.table import comparison_table

pytestmark = pytest.mark.usefixtures("few_digits")

DTYPES: tuple[ExtrasDtype, ...] = ("float32", "float16", "bfloat16", "int8")
STATISTICS, AFFINE, CLASSES, FEATURES = 1984, 32, 7, 80  # values of the bundled net's norms, of one norm, of its head


def with_head() -> Jackpot:
    """A jackpot with norm statistics, one trained norm and a head of random values."""
    base = load_base("digits_resnet", num_classes=CLASSES)
    jackpot, random = make_jackpot(base), torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(tensor.shape, generator=random)
        for name, tensor in copy_tensors(base.model, ["fc.weight", "fc.bias", "conv1.1.weight", "conv1.1.bias"]).items()
    }
    extras = dict(jackpot.extras)
    extras |= {name: Extra("head" if name[:2] == "fc" else "norm_affine", tensor) for name, tensor in drawn.items()}
    return replace(jackpot, extras=extras)


@pytest.fixture(scope="module")
def jackpot() -> Jackpot:
    return with_head()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_is_what_was_rounded(jackpot: Jackpot, tmp_path: Path, dtype: ExtrasDtype) -> None:
    folder = save_pretrained(jackpot, tmp_path / "j", extras_dtype=dtype)
    found, loaded = read_artifact(folder).extras, from_pretrained(folder).state_dict()
    for name, extra in jackpot.extras.items():
        expected = rounded_extra(name, extra.role, extra.tensor, dtype)
        assert expected.dtype == torch.float32
        assert torch.equal(found[name], expected)
        assert torch.equal(loaded[name], expected)
        assert torch.equal(expected, extra.tensor) or dtype != "float32"
    rounded = {name: extra._replace(tensor=found[name]) for name, extra in jackpot.extras.items()}
    again = save_pretrained(replace(jackpot, extras=rounded), tmp_path / "again", extras_dtype=dtype)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_float32_is_stored_as_before(jackpot: Jackpot, tmp_path: Path) -> None:
    folder = save_pretrained(jackpot, tmp_path / "j")
    assert not any("dtype" in entry for entry in json.loads((folder / "config.json").read_text())["extras"])
    stored = load_file(folder / "extras.safetensors")
    assert all(torch.equal(stored[name], extra.tensor) for name, extra in jackpot.extras.items())


def test_int8_is_for_the_heads_matrix_and_the_rest_is_float16(jackpot: Jackpot, tmp_path: Path) -> None:
    stored = load_file(save_pretrained(jackpot, tmp_path / "j", extras_dtype="int8") / "extras.safetensors")
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    assert kinds.pop("fc.weight") == torch.int8
    assert kinds.pop("fc.weight::scale") == torch.float32
    assert set(kinds) == set(jackpot.extras) - {"fc.weight"}
    assert set(kinds.values()) == {torch.float16}


@given(
    hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-(2.0**126), 2.0**126, width=32))
    | hnp.arrays("float32", (3, 5), elements=st.floats(-1, 1, width=32))
)
def test_an_int8_value_is_at_most_half_a_step_away_and_rounds_to_itself(values: Any) -> None:
    tensor = torch.from_numpy(values)
    found = rounded_extra("fc.weight", "head", tensor, "int8")
    step = tensor.abs().amax(1, keepdim=True).double() / 127 * (1 + 2**-15)  # scales have 16 bits
    step = step.clamp_min(2 * 127 * 2**-126)  # below that a row is stored as zeros
    assert bool(((found.double() - tensor.double()).abs() <= step * 0.50001).all())
    assert torch.equal(rounded_extra("fc.weight", "head", found, "int8"), found)


def test_a_row_of_zeros_has_no_scale() -> None:
    stored = encode_extra("fc.weight", "head", torch.tensor([[0.0, -0.0], [0.25, -2.0]]), "int8")
    assert stored["fc.weight"].tolist() == [[0, 0], [16, -127]]
    assert stored["fc.weight::scale"][0] == 0


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (
            70_000.0,
            "float16",
            "running_var .* 70000, too large to be stored as float16: choose bfloat16 or float32",
        ),
        (70_000.0, "int8", "conv1.1.running_var .* too large to be stored as int8: choose bfloat16 or float32"),
        (3.4e38, "bfloat16", "too large to be stored as bfloat16: choose float32"),
        (float("inf"), "float32", "conv1.1.running_var holds values that are not finite"),
        (float("nan"), "float16", "holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    jackpot: Jackpot, tmp_path: Path, value: float, dtype: ExtrasDtype, message: str
) -> None:
    name = "conv1.1.running_var"
    tensor = jackpot.extras[name].tensor.clone()
    tensor[3] = value
    extras = {**jackpot.extras, name: Extra("norm_statistics", tensor)}
    with pytest.raises(ArtifactError, match=message):
        save_pretrained(replace(jackpot, extras=extras), tmp_path / "j", extras_dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_there_is_not(jackpot: Jackpot, tmp_path: Path) -> None:
    dtype: Any = "float8"
    with pytest.raises(ConfigError, match="stored as float32, float16, bfloat16, int8, not 'float8'"):
        save_pretrained(jackpot, tmp_path / "j", extras_dtype=dtype)


@pytest.mark.parametrize(("dtype", "width", "head"), [("float32", 4, 4), ("bfloat16", 2, 2), ("int8", 2, 1)])
def test_bytes_follow_from_shapes_and_dtypes(
    jackpot: Jackpot, tmp_path: Path, dtype: ExtrasDtype, width: int, head: int
) -> None:
    artifact = read_artifact(save_pretrained(jackpot, tmp_path / "j", extras_dtype=dtype))
    sizes = bytes_by_kind(artifact.config)
    scales = 4 * CLASSES if dtype == "int8" else 0
    assert sizes == {
        "mask": (artifact.folder / "masks.safetensors").stat().st_size,
        "norm_statistics": width * STATISTICS,
        "norm_affine": width * AFFINE,
        "head": CLASSES * (head * FEATURES + width) + scales,
    }
    stored = load_file(artifact.folder / "extras.safetensors").values()
    assert sum(sizes.values()) - sizes["mask"] == sum(tensor.nbytes for tensor in stored)
    table = report_table(artifact_report(artifact))
    assert f"norm scales and shifts: {width * AFFINE} bytes" in table
    assert f"head: {sizes['head']} bytes, stored as {'int8 and float16' if scales else dtype}" in table
    card = render_card(artifact)
    assert f"| norm statistics, {'float16' if scales else dtype} (in `extras.safetensors`) | " in card
    assert f"| head, {'int8 and float16' if scales else dtype} (in `extras.safetensors`) | " in card


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
def test_a_search_measures_what_it_stores(
    tmp_path: Path, dtype: ExtrasDtype, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"steps": 4, "batch_size": 32, "train_head": True, "train_norm": True}
    whole = search_jackpot(SearchConfig(**settings, output=str(tmp_path / "float32")))
    config = SearchConfig(**settings, extras_dtype=dtype, output=str(tmp_path / "fewer"))
    result = search_jackpot(config)
    live, loaded = result.model.state_dict(), from_pretrained(tmp_path / "fewer").state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in live.items() if "num_batches" not in name)
    assert result.jackpot.masks == whole.jackpot.masks  # the search itself is the same
    for name, extra in whole.jackpot.extras.items():
        assert torch.equal(live[name], rounded_extra(name, extra.role, extra.tensor, dtype))
    assert not torch.equal(live["fc.weight"], whole.jackpot.extras["fc.weight"].tensor)

    sizes = result.summary["bytes_by_kind"]
    assert sizes == bytes_by_kind(read_artifact(tmp_path / "fewer").config)
    assert 2 * sizes["norm_affine"] == whole.summary["bytes_by_kind"]["norm_affine"] > 0
    rest = result.summary["artifact_bytes"] - sum(sizes.values())
    printed = (
        f"of them mask {sizes['mask']}, norm statistics {sizes['norm_statistics']}, norm scales and shifts "
        f"{sizes['norm_affine']}, head {sizes['head']}, config.json and header {rest}"
    )
    assert printed in comparison_table(result, config).splitlines()
    assert f"--extras-dtype {dtype}" in (tmp_path / "fewer" / "README.md").read_text("utf-8")

    table = compare_masks(CompareConfig(artifacts=(str(tmp_path / "fewer"), str(tmp_path / "float32")))).table
    row = next(line for line in table.splitlines() if line.startswith("bytes, head"))
    assert row.split()[2:] == [str(sizes["head"]), str(whole.summary["bytes_by_kind"]["head"])]
    monkeypatch.setattr("sys.argv", ["inspect", str(tmp_path / "fewer")])
    assert inspect.main()["bytes_by_kind"] == sizes


def test_a_search_that_does_not_fit_says_so_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("timm_jackpot.search.run.measure_on_test", never)
    monkeypatch.setattr(
        "timm_jackpot.search.run.rounded_extra", lambda name, role, t, dtype: rounded_extra(name, role, t + 7e4, dtype)
    )
    config = SearchConfig(steps=1, batch_size=32, extras_dtype="float16", output=str(tmp_path / "j"))
    with pytest.raises(ArtifactError, match="too large to be stored as float16"):
        search_jackpot(config)
    assert not (tmp_path / "j" / "config.json").exists()
