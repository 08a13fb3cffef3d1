"""Hostile artefacts are refused: every one, by a JackpotError, quickly, in little memory, touching nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from safetensors.torch import save_file

from timm_jackpot.artefact import Extra, Jackpot, from_pretrained, save_pretrained
from timm_jackpot.base import Base, BaseRef, base_digest, copy_tensors, load_base, maskable_weights, norm_statistics
from timm_jackpot.base.tensors import tensor_ids
from timm_jackpot.criteria import magnitude
from timm_jackpot.data.open import data_config
from timm_jackpot.masks import MaskSet, allocate, keep_largest

SECONDS, BYTES = 2.0, 200 * 10**6


def make_jackpot(base: Base, head: tuple[str, ...] = ()) -> Jackpot:
    maskable = maskable_weights(base.model)
    scores = magnitude(maskable.weights)
    kept = allocate("global", scores, "0.9")
    statistics = copy_tensors(base.model, norm_statistics(base.model))
    extras = {name: Extra("norm_statistics", tensor + 0.25) for name, tensor in statistics.items()}
    extras |= {name: Extra("head", tensor) for name, tensor in copy_tensors(base.model, head).items()}
    masks = MaskSet({name: keep_largest(values, kept[name]) for name, values in scores.items()})
    return Jackpot(base, maskable, masks, extras, "0.9", "global", data_config(base.model))


def make_good(root: Path) -> None:
    """The good artefacts, and the weights that some of them are loaded on."""
    digits = load_base("digits_resnet")
    save_pretrained(make_jackpot(digits), root / "good" / "digits")
    other = {name: tensor * 1.5 for name, tensor in digits.model.state_dict().items() if tensor.is_floating_point()}
    save_file(other, root / "other.safetensors")
    head = make_jackpot(load_base("digits_resnet", num_classes=7), ("fc.weight", "fc.bias"))
    save_pretrained(head, root / "good" / "head")
    save_pretrained(make_jackpot(load_base("digits_resnet", in_chans=1)), root / "good" / "grey")
    vit = hostile_vit()
    save_file(vit.state_dict(), root / "vit.safetensors")
    vit_base = load_base("test_vit", base_checkpoint=root / "vit.safetensors")
    save_pretrained(make_jackpot(vit_base), root / "good" / "vit")
    save_pretrained(make_jackpot(odd_base()), root / "good" / "odd")
    (root / hostile.SECRET).mkdir()
    (root / hostile.SECRET / "config.json").write_text('{"architecture": "digits_resnet"}')
    shutil.copy(root / "other.safetensors", root / hostile.SECRET / "model.safetensors")
    (root / f"{hostile.BAIT}.py").write_text("raise SystemExit('an artefact had this imported')\n")


def hostile_vit() -> torch.nn.Module:
    import timm

    return timm.create_model("test_vit", pretrained=False)


def odd_base() -> Base:
    model = hostile.odd_module()
    ids = tensor_ids(model)
    ref = BaseRef(
        source="module",
        architecture="Sequential",
        tag=None,
        model_kwargs={},
        hub_id=None,
        revision=None,
        num_classes=0,
        in_chans=1,
        img_size=None,
        digest=base_digest(ids),
    )
    return Base(model, ref, ids, ())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    make_good(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reports(root: Path) -> dict[str, dict[str, Any]]:
    """What came of every case, and "baseline"; tried in one process of its own."""
    manifest = []
    for number, case in enumerate(hostile.CASES.values()):
        folder = root / "cases" / str(number)
        shutil.copytree(root / "good" / case.good, folder)
        case.build(folder)
        manifest.append((f"cases/{number}", case.good, case.base))
    (root / "manifest.json").write_text(json.dumps(manifest))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, hostile.__file__, str(root)], check=True, timeout=300, env=environment, cwd=root / "cases"
    )
    lines = [json.loads(line) for line in (root / "report.jsonl").read_text().splitlines()]
    return {"baseline": lines[0], **dict(zip(hostile.CASES, lines[1:], strict=True))}


def test_the_corpus_is_large(root: Path) -> None:
    assert len(hostile.CASES) >= 200


@pytest.mark.parametrize("name", hostile.CASES)
def test_is_refused(name: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[name]
    assert (report["outcome"], report["seen"], report["imported"]) == ("refused", [], []), report["message"]
    assert report["seconds"] < SECONDS
    assert report["grown"] < BYTES


@pytest.mark.parametrize("good", ["digits", "head", "grey", "vit", "odd"])
def test_the_good_ones_are_good(good: str, root: Path) -> None:
    from_pretrained(root / "good" / good, **hostile.bases(root).get(good, {}))
