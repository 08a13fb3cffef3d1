"""Hostile artifacts are refused: every one, by a JackpotError, quickly, in little memory, touching nothing."""

from __future__ import annotations

import copy
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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from timm_jackpot.artifact import Extra, Jackpot, from_pretrained, save_pretrained
from timm_jackpot.base import Base, BaseRef, base_digest, copy_tensors, load_base, maskable_weights, norm_statistics
from timm_jackpot.base.tensors import tensor_ids
from timm_jackpot.criteria import magnitude
from timm_jackpot.data.open import data_config
from timm_jackpot.errors import JackpotError
from timm_jackpot.masks import MaskSet, allocate, keep_largest

SECONDS, BYTES = 2.0, 200 * 10**6

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, sparse files, and /proc to measure memory")


def make_jackpot(base: Base, head: tuple[str, ...] = ()) -> Jackpot:
    maskable, random = maskable_weights(base.model), torch.Generator().manual_seed(0)
    scores = magnitude(maskable.weights)
    kept = allocate("global", scores, "0.9")
    statistics = copy_tensors(base.model, norm_statistics(base.model))
    extras = {name: Extra("norm_statistics", tensor + 0.25) for name, tensor in statistics.items()}
    extras |= {name: Extra("head", tensor) for name, tensor in copy_tensors(base.model, head).items()}
    # Not the magnitude masks themselves, of which compact ones need no words.
    noise = {name: torch.randn(values.shape, generator=random).mul(0.35).exp() for name, values in scores.items()}
    masks = MaskSet({name: keep_largest(values * noise[name], kept[name]) for name, values in scores.items()})
    return Jackpot(base, maskable, masks, extras, "0.9", "global", data_config(base.model))


def make_good(root: Path) -> None:
    """The good artifacts, and the weights that some of them are loaded on."""
    digits = load_base("digits_resnet")
    save_pretrained(make_jackpot(digits), root / "good" / "digits")
    save_pretrained(make_jackpot(digits), root / "good" / "compact", encoding="compact")
    other = {name: tensor * 1.5 for name, tensor in digits.model.state_dict().items() if tensor.is_floating_point()}
    save_file(other, root / "other.safetensors")
    head = make_jackpot(load_base("digits_resnet", num_classes=7), ("fc.weight", "fc.bias"))
    save_pretrained(head, root / "good" / "head")
    save_pretrained(head, root / "good" / "int8", extras_dtype="int8")
    save_pretrained(make_jackpot(load_base("digits_resnet", in_chans=1)), root / "good" / "grey")
    vit = hostile_vit()
    save_file(vit.state_dict(), root / "vit.safetensors")
    vit_base = load_base("test_vit", base_checkpoint=root / "vit.safetensors")
    save_pretrained(make_jackpot(vit_base), root / "good" / "vit")
    save_pretrained(make_jackpot(odd_base()), root / "good" / "odd")
    (root / hostile.SECRET).mkdir()
    (root / hostile.SECRET / "config.json").write_text('{"architecture": "digits_resnet"}')
    shutil.copy(root / "other.safetensors", root / hostile.SECRET / "model.safetensors")
    (root / f"{hostile.BAIT}.py").write_text("raise SystemExit('an artifact had this imported')\n")


def hostile_vit() -> torch.nn.Module:
    import timm

    return timm.create_model("test_vit", pretrained=False)


def odd_base() -> Base:
    model: Any = hostile.odd_module()
    model.pretrained_cfg = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
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


@pytest.fixture(scope="module", params=[4, pytest.param(1, marks=pytest.mark.slow)], ids=["one in four", "all"])
def reports(root: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What came of every case, or of the giants and one in four of the others, tried in one process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(root), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    command = [sys.executable, "-m", "hostile.program", str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=root) as child:
        assert child.stdin
        assert child.stdout
        found = {}
        for number, (name, case) in enumerate(hostile.CASES.items()):
            if number % request.param and not is_giant(name):
                continue
            folder = build(root, case)
            print(json.dumps([folder.name, case.base or case.good]), file=child.stdin, flush=True)
            answer = child.stdout.readline()
            assert answer, f"the process did not survive: {name}"
            found[name] = json.loads(answer)
            remove(folder)
        child.stdin.close()
    return found


def is_giant(name: str) -> bool:
    return "shape [2147483648" in name or "shape [536870912" in name


def build(root: Path, case: hostile.Case) -> Path:
    folder = root / "case"
    shutil.copytree(root / "good" / case.good, folder)
    case.build(folder)
    return folder


def remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink()


def unlike(reports: dict[str, dict[str, Any]], key: str, expected: object) -> dict[str, object]:
    return {name: (report[key], report["message"]) for name, report in reports.items() if report[key] != expected}


def test_all_are_refused(reports: dict[str, dict[str, Any]]) -> None:
    assert len(reports) >= 200
    assert unlike(reports, "outcome", "refused") == {}


def test_none_crashes_a_reader_without_a_base(reports: dict[str, dict[str, Any]]) -> None:
    assert {name: r["message"] for name, r in reports.items() if r["alone"] == "crashed"} == {}


def test_what_claims_a_giant_size_is_refused_by_a_reader_without_a_base_too(reports: dict[str, dict[str, Any]]) -> None:
    giants = {name: report["alone"] for name, report in reports.items() if is_giant(name)}
    of_modules = {name: giants.pop(name) for name in list(giants) if name.endswith("of a module")}
    assert len(giants) > 10
    assert set(giants.values()) == {"refused"}
    assert set(of_modules.values()) == {"accepted", "refused"}  # nothing to compare with: then nothing is unpacked


def test_nothing_is_imported_unpickled_fetched_or_started(reports: dict[str, dict[str, Any]]) -> None:
    assert unlike(reports, "imported", []) == {}
    assert unlike(reports, "seen", []) == {}


def test_each_is_refused_in_two_seconds(reports: dict[str, dict[str, Any]]) -> None:
    assert {name: r["seconds"] for name, r in reports.items() if r["seconds"] > SECONDS} == {}


def test_all_are_refused_in_200_megabytes(reports: dict[str, dict[str, Any]]) -> None:
    assert {name: r["grown"] for name, r in reports.items() if r["grown"] > BYTES} == {}


def test_the_reason_is_a_sentence_for_a_terminal(reports: dict[str, dict[str, Any]]) -> None:
    messages = {name: report["message"] for name, report in reports.items()}
    assert {name: m for name, m in messages.items() if not m or len(m) > 500 or not m.isprintable()} == {}


# --- mutations -----------------------------------------------------------------------------------------------

EDITS = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"]),
    st.integers(0, 800) | st.integers(0, 60_000),
    st.binary(min_size=1, max_size=8),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**41), 10**41) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.tuples(
    st.sampled_from(["replace", "delete", "add", "copy", "exchange", "duplicate"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    VALUES,
)


@pytest.fixture(scope="module")
def good_state(root: Path) -> dict[str, torch.Tensor]:
    return from_pretrained(root / "good" / "digits").state_dict()


def mutate(data: bytes, kind: str, at: int, new: bytes) -> bytes:
    at %= len(data) + 1
    front, back = data[:at], data[at:]
    if kind == "flip":
        return front + bytes(a ^ b for a, b in zip(back, new, strict=False)) + back[len(new) :]
    return {
        "insert": front + new + back,
        "delete": front + back[len(new) :],
        "truncate": front,
        "repeat": front + front[-50:] + back,
    }[kind]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def change(config: dict[str, Any], kind: str, one: int, two: int, value: Any) -> None:
    found = places(config)
    (box, key), (other_box, other_key) = found[one % len(found)], found[two % len(found)]
    if kind == "replace":
        box[key] = value
    elif kind == "delete":
        del box[key]
    elif kind == "copy":
        box[key] = copy.deepcopy(other_box[other_key])
    elif kind == "exchange":
        box[key], other_box[other_key] = copy.deepcopy(other_box[other_key]), copy.deepcopy(box[key])
    elif isinstance(box, list):
        box.insert(key, value if kind == "add" else copy.deepcopy(box[key]))
    else:
        box[f"{key}x"] = value if kind == "add" else copy.deepcopy(box[key])


def is_refused_or_the_same(folder: Path, good: dict[str, torch.Tensor], unsealed: frozenset[str] = frozenset()) -> None:
    """Refused by name, or it loads to what the good artifact loads to; of `unsealed` tensors nothing is asked."""
    try:
        found = from_pretrained(folder).state_dict()
    except JackpotError:
        return
    assert list(found) == list(good)
    assert [name for name in good if not torch.equal(found[name], good[name]) and name not in unsealed] == []


def check_bytes(
    root: Path, good: dict[str, torch.Tensor], file: tuple[str, str], edits: list[Any], sealed: bool
) -> None:
    folder, (which, name) = root / "mutated", file
    shutil.copytree(root / "good" / which, folder, dirs_exist_ok=True)
    data = (folder / name).read_bytes()
    for edit in edits:
        data = mutate(data, *edit)
    (folder / name).write_bytes(data)
    sealed = sealed and name != hostile.CONFIG
    if sealed:
        hostile.reseal(folder, name)
    # Nothing but the file's hash covers the values of extras: sealed again they are other extras, not damage.
    extras = frozenset(n for n in good if "running" in n) if sealed and name == hostile.EXTRAS else frozenset()
    is_refused_or_the_same(folder, good, extras)


def check_structure(root: Path, good: dict[str, torch.Tensor], changes: list[Any], ascii_only: bool) -> None:
    folder = root / "restructured"
    shutil.copytree(root / "good" / "digits", folder, dirs_exist_ok=True)
    config = json.loads((folder / hostile.CONFIG).read_text("utf-8"))
    for one in changes:
        if places(config):
            change(config, *one)
    text = json.dumps(config, ensure_ascii=ascii_only)
    (folder / hostile.CONFIG).write_bytes(text.encode("utf-8", "surrogatepass"))
    is_refused_or_the_same(folder, good)


FILES = st.sampled_from(
    [*(("digits", name) for name in (hostile.CONFIG, hostile.MASKS, hostile.EXTRAS)), ("compact", hostile.MASKS)]
)
any_bytes = given(file=FILES, edits=st.lists(EDITS, min_size=1, max_size=4), sealed=st.booleans())
any_structure = given(changes=st.lists(CHANGES, min_size=1, max_size=4), ascii_only=st.booleans())


@any_bytes
@settings(max_examples=300)
def test_changed_bytes_are_refused_or_harmless(
    root: Path, good_state: dict[str, torch.Tensor], file: tuple[str, str], edits: list[Any], sealed: bool
) -> None:
    check_bytes(root, good_state, file, edits, sealed)


@any_structure
@settings(max_examples=300)
def test_changed_structure_is_refused_or_harmless(
    root: Path, good_state: dict[str, torch.Tensor], changes: list[Any], ascii_only: bool
) -> None:
    check_structure(root, good_state, changes, ascii_only)


@pytest.mark.slow
@any_bytes
@settings(max_examples=5_000, derandomize=False)
def test_changed_bytes_at_length(
    root: Path, good_state: dict[str, torch.Tensor], file: tuple[str, str], edits: list[Any], sealed: bool
) -> None:
    check_bytes(root, good_state, file, edits, sealed)


@pytest.mark.slow
@any_structure
@settings(max_examples=5_000, derandomize=False)
def test_changed_structure_at_length(
    root: Path, good_state: dict[str, torch.Tensor], changes: list[Any], ascii_only: bool
) -> None:
    check_structure(root, good_state, changes, ascii_only)


@pytest.mark.parametrize("good", hostile.GOOD)
def test_the_good_ones_are_good(good: str, root: Path) -> None:
    assert not from_pretrained(root / "good" / good, **hostile.arguments(root, good)).training
