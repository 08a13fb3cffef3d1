"""Format 1 on disk: identity of save and load, atomicity, and suspicion."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from timm_jackpot.artifact import Extra, Jackpot, from_pretrained, read_artifact, save_pretrained
from timm_jackpot.artifact.report import artifact_report
from timm_jackpot.base import Base, copy_tensors, load_base, maskable_weights, norm_statistics
from timm_jackpot.criteria import magnitude
from timm_jackpot.data.open import data_config
from timm_jackpot.errors import ArtifactError, BaseMismatchError
from timm_jackpot.masks import MaskSet, allocate, keep_largest


def make_jackpot(base: Base, sparsity: str = "0.9") -> Jackpot:
    maskable = maskable_weights(base.model)
    scores = magnitude(maskable.weights)
    kept = allocate("global", scores, sparsity)
    extras = copy_tensors(base.model, norm_statistics(base.model))
    return Jackpot(
        base=base,
        maskable=maskable,
        masks=MaskSet({name: keep_largest(values, kept[name]) for name, values in scores.items()}),
        extras={name: Extra("norm_statistics", tensor + 0.25) for name, tensor in extras.items()},
        sparsity=sparsity,
        allocation="global",
        data=data_config(base.model),
    )


@pytest.fixture(scope="module")
def jackpot() -> Jackpot:
    return make_jackpot(load_base("digits_resnet"))


@pytest.fixture
def folder(jackpot: Jackpot, tmp_path: Path) -> Path:
    return save_pretrained(jackpot, tmp_path / "jackpot")


def edit(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def reseal(folder: Path, name: str) -> None:
    """Make config.json agree with a changed file, as an attacker would."""
    content = (folder / name).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda c: c["files"].__setitem__(name, entry))


def test_only_masks_are_stored_one_bit_each(jackpot: Jackpot, folder: Path) -> None:
    stored = load_file(folder / "masks.safetensors")
    assert list(stored) == sorted(jackpot.masks)
    assert all(t.dtype == torch.uint8 for t in stored.values())
    assert sum(t.numel() for t in stored.values()) == sum((m.numel() + 7) // 8 for m in jackpot.masks.values())


def test_loading_gives_back_masks_extras_and_a_plain_model(jackpot: Jackpot, folder: Path) -> None:
    assert read_artifact(folder).masks == jackpot.masks
    model = from_pretrained(folder)
    assert type(model).__name__ == "ResNet"
    assert not model.training
    assert not any("parametrizations" in name for name in model.state_dict())
    state = model.state_dict()
    for name, mask in jackpot.masks.items():
        assert not state[name][~mask].any()
        assert torch.equal(state[name][mask], jackpot.base.model.state_dict()[name][mask])
    for name, extra in jackpot.extras.items():
        assert torch.equal(state[name], extra.tensor)


def test_two_saves_are_the_same_bytes(jackpot: Jackpot, folder: Path, tmp_path: Path) -> None:
    again = save_pretrained(jackpot, tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_device_and_dtype(folder: Path) -> None:
    assert next(from_pretrained(folder, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_a_channels_last_base_saves_the_same_artifact(jackpot: Jackpot, folder: Path, tmp_path: Path) -> None:
    base = load_base("digits_resnet")
    base.model.to(memory_format=torch.channels_last)
    other = save_pretrained(make_jackpot(base), tmp_path / "channels_last")
    assert (other / "masks.safetensors").read_bytes() == (folder / "masks.safetensors").read_bytes()


def test_a_module_can_be_the_base(folder: Path) -> None:
    module = load_base("digits_resnet").model
    assert from_pretrained(folder, base=module) is module


def test_another_base_is_refused_naming_the_first_differing_tensor(folder: Path) -> None:
    module = load_base("digits_resnet").model
    with torch.no_grad():
        module.layer2[0].conv1.weight[0, 0, 0, 0] += 1
    with pytest.raises(BaseMismatchError, match=r"layer2\.0\.conv1\.weight differs first"):
        from_pretrained(folder, base=module)
    module = load_base("digits_resnet").model
    with torch.no_grad():
        module.fc.bias[0] += 1
    with pytest.raises(BaseMismatchError, match="another tensor differs"):
        from_pretrained(folder, base=module)


def test_a_file_base_needs_its_file(shared: Path, tmp_path: Path) -> None:
    weights = shared / "data/weights"
    base = load_base("cifar_resnet20", base_checkpoint=weights / "resnet20_cifar10.safetensors")
    folder = save_pretrained(make_jackpot(base), tmp_path / "c")
    with pytest.raises(ArtifactError, match="pass the same file with --base-checkpoint"):
        from_pretrained(folder)
    with pytest.raises(BaseMismatchError, match=r"conv1\.weight differs first"):
        from_pretrained(folder, base_checkpoint=weights / "resnet20_cifar10_jpegtuned.safetensors")
    assert from_pretrained(folder, base_checkpoint=weights / "resnet20_cifar10.safetensors") is not None


def test_model_kwargs_are_recorded_and_restored(shared: Path, tmp_path: Path) -> None:
    checkpoint = shared / "data/weights/mobilenetv2_100_imagenet1k_coral.safetensors"
    kwargs = {"pad_type": "same", "bn_eps": 1e-3}
    base = load_base("mobilenetv2_100", base_checkpoint=checkpoint, model_kwargs=kwargs)
    folder = save_pretrained(make_jackpot(base, "0.5"), tmp_path / "m")
    assert read_artifact(folder).config.base.model_kwargs == kwargs
    assert from_pretrained(folder, base_checkpoint=checkpoint).bn1.eps == 1e-3


def test_an_existing_artifact_is_only_replaced_on_request(jackpot: Jackpot, folder: Path) -> None:
    with pytest.raises(ArtifactError, match="already holds a jackpot"):
        save_pretrained(jackpot, folder)
    save_pretrained(jackpot, folder, attachments={"audit.json": b"x"}, overwrite=True)
    assert (folder / "audit.json").read_bytes() == b"x"


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failed_save_leaves_the_old_artifact_and_nothing_else(
    jackpot: Jackpot, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    real_rename = Path.rename

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def rename(self: Path, target: Path) -> Path:
        return full() if self.parent.name.endswith(".new") else real_rename(self, target)

    monkeypatch.setattr(os, "fsync", full) if call == "fsync" else monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ArtifactError, match="No space left on device"):
        save_pretrained(jackpot, folder, overwrite=True)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["masks.safetensors", "extras.safetensors", "config.json"])
def test_a_missing_or_truncated_file_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7])
    with pytest.raises(ArtifactError, match=r"truncated|not valid"):
        read_artifact(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"has no {name}"):
        read_artifact(folder)


def test_a_flipped_bit_is_damage(folder: Path) -> None:
    content = bytearray((folder / "masks.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "masks.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        read_artifact(folder)


def test_an_edited_mask_with_matching_file_hash_is_still_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_jackpot.artifact.read.unpack", None)  # which takes eight times the file
    path = folder / "masks.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    reseal(folder, "masks.safetensors")
    with pytest.raises(ArtifactError, match="does not keep the"):
        read_artifact(folder)


def test_extras_that_are_not_finite_are_refused(folder: Path) -> None:
    extras = load_file(folder / "extras.safetensors")
    next(iter(extras.values()))[0] = float("nan")
    save_file(extras, folder / "extras.safetensors")
    reseal(folder, "extras.safetensors")
    with pytest.raises(ArtifactError, match="not finite"):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=3), "upgrade timm-jackpot"),
        (lambda c: c.update(format="1"), "format"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c["sparsity"].update(requested="0.5"), "a sparsity of 0.5 keeps 157272 of 314544 weights"),
        (lambda c: c["sparsity"].update(requested="1e-999999999"), "in plain decimal notation"),
        (lambda c: c["sparsity"].update(requested="\u0660.\u0669"), "in plain decimal notation"),
        (lambda c: c["data"].update(mean=[0.5] * 64), "mean and std must have one number for each of the 3 channels"),
        (lambda c: c["data"].update(crop_pct=1e-3), "images would be resized to 3.2e\\+04 pixels"),
        (lambda c: c["data"].update(crop_pct=1e-300), "images would be resized"),
        (lambda c: c["data"].update(input_size=[1, 32, 32]), "the images have 1 channels, but the base takes 3"),
        (lambda c: c["layers"][0].update(name="../evil"), "layers.0.name"),
        (lambda c: c["layers"][0].update(shape=[10**9, 10**9]), r"more weights than this format allows"),
        (lambda c: c["layers"].append(c["layers"][0]), "twice"),
        (lambda c: c["layers"][0].update(kept=c["layers"][0]["kept"] - 1), "sparsity does not match"),
        (lambda c: c.update(mask_hash="0" * 64), "do not belong together"),
        (lambda c: c["base"].update(model_kwargs={"pretrained_cfg": "x"}), "may not be set by an artifact"),
        (lambda c: c.update(head={"names": ["fc.weight"], "num_classes": 10, "labels": None}), "head and extras"),
        (lambda c: c["extras"][0].update(name=c["layers"][0]["name"]), "both as masked and as an extra"),
    ],
)
def test_an_edited_config_is_refused_by_name(folder: Path, change, message: str) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder)


@pytest.mark.parametrize("value", [True, 1.0])
def test_the_format_beside_the_masks_is_an_integer(folder: Path, value: object) -> None:
    edit(folder, lambda c: c.update(format=1))  # which true and 1.0 equal in Python
    path = folder / "masks.safetensors"
    with safe_open(path, framework="pt") as file:
        repeated = {**json.loads(file.metadata()["timm_jackpot"]), "format": value}
    save_file(load_file(path), path, {"timm_jackpot": json.dumps(repeated)})
    reseal(folder, "masks.safetensors")
    with pytest.raises(ArtifactError, match="do not belong together"):
        read_artifact(folder)


def test_another_architecture_is_refused_without_a_base(folder: Path) -> None:
    edit(folder, lambda c: c["base"].update(architecture="resnet18", tag=None))
    with pytest.raises(BaseMismatchError, match=r"the mask covers conv1\.0\.weight with shape"):
        read_artifact(folder)


def test_what_no_reader_would_take_is_not_written(jackpot: Jackpot, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a sparsity of 0\.5 keeps"):
        save_pretrained(replace(jackpot, sparsity="0.5"), tmp_path / "j")
    with pytest.raises(ArtifactError, match="would be resized"):
        save_pretrained(replace(jackpot, data={**jackpot.data, "crop_pct": 1e-3}), tmp_path / "j")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b"[" * 10**5, b'{"a":' + b"9" * 10**5 + b"}"],
)
def test_hostile_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ArtifactError):
        read_artifact(folder)


def test_report_adds_up(jackpot: Jackpot, folder: Path) -> None:
    report = artifact_report(read_artifact(folder))
    assert report["kept"] == sum(layer["kept"] for layer in report["layers"]) == jackpot.masks.kept
    assert report["bytes"]["masks.safetensors"] == (folder / "masks.safetensors").stat().st_size
    assert report["dense_bytes"] == 4 * sum(p.numel() for p in jackpot.base.model.parameters())
    assert report["packed_bytes"] == sum((mask.numel() + 7) // 8 for mask in jackpot.masks.values())
    assert [w["reason"] for w in report["dense"]] == ["classifier"]
