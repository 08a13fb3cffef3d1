"""Hostile recipes, bases, weights, artifacts and images, for tests/command_lines.py to name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any


def make_things(folder: Path) -> None:
    """Hostile recipes, bases, weights, artifacts and images, and the few sound ones that they are made from."""
    (folder / "file").write_text("a file\n")
    (folder / "tiny.yaml").write_text('steps: 1\nbatch_size: 64\ngrid: {sparsity: ["0.5"]}\nseeds: [0]\n')
    data = "dataset: folder\ndata_dir: images/sound\nval_fraction: 0\nimg_size: 32\nnum_classes: 2\n"
    (folder / "toy.yaml").write_text(f"{data}batch_size: 2\nworkers: 0\nsteps: 1\nhead_steps: 1\ntargets: {{toy: }}\n")
    _make_recipes(folder / "recipes")
    _make_images(folder / "images")
    _make_weights(folder / "weights")
    _make_bases(folder / "bases")
    _make_artifacts(folder / "artifacts", folder / "good")


def _make_recipes(folder: Path) -> None:
    folder.mkdir()
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['lol'] * 9)}]\n" for i in range(9))
    merges = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" if i else "a0: &a0 {x: 1}\n" for i in range(40))
    texts = {
        "empty": "", "list": "- 1\n", "text": "hello", "null_steps": "steps: null",
        "deep": "lr: " + "[" * 1000 + "]" * 1000,
        "deep_map": "grid:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, 200)), "bomb": bomb, "merges": merges,
        "cycle": "lr: &a [*a]", "tabs": "\tsteps: 1", "date": "lr: 2020-13-45", "long_int": "steps: " + "9" * 5000,
        "tag": "lr: !!python/object/apply:os.system [x]", "binary": "model: !!binary aGk=",
        "set": "include: !!set {a, b}",
        "keys": "1: 2\n[a]: b\n", "int_key": "1: 2", "twice": "steps: 1\nsteps: 2\n", "self": "self: 1\n",
        "bool": "steps: true",
        "steps": "steps: 1e9", "lr": "lr: .inf", "nan": "temperature: .nan", "types": "model: [1]\nlr: {a: b}\n",
        "sparsity": "sparsity: 1e-99999999", "sparsity_list": "sparsity: [0.5]", "grid_list": "grid: [1]",
        "grid_int": "grid: {1: [2]}",
        "grid_empty": "grid: {steps: []}",
        "grid_big": "grid:\n" + "".join(f"  k{i}: [1, 2, 3, 4]\n" for i in range(40)),
        "cells": "cells: [1]", "cells_int": "cells: [{1: 2}, {2: 3}]", "seeds": "steps: 1\nseeds: 5",
        "seeds_text": "seeds: [a]",
        "seeds_many": "seeds: [" + ",".join(map(str, range(20_000))) + "]", "targets": "targets: {a: 1}",
        "targets_list": "targets: [a]",
        "targets_deep": "targets: {a: {b: {c: {d: e}}}}", "sources": "targets: {a: }\nsources: {b: {data: c}}",
        "long": "model: " + "x" * 200_000,
        "name": "targets: {" + "x" * 300 + ": }", "head": "targets: {a: }\nhead_lr: x", "preset": "preset: [paper]",
        "include": "include: x",
        "allocation": "allocation: {a: b}", "kwargs": "model_kwargs: [num_classes=1]", "mean": "mean: 1",
        "mean_many": f"mean: {[0.5] * 65}",
        "recipe": "recipe: digits", "output": "output: /dev/null/x", "sound": "steps: 1\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "latin.yaml").write_bytes(b"model: \xe9\n")
    (folder / "zeros.yaml").write_bytes(b"\0" * 1000)
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    with (folder / "sparse.yaml").open("wb") as file:
        file.truncate(10**10)


def _make_images(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("sound", "broken", "one_class", "no_test"):
        for split in ("train", "test")[: 1 if name == "no_test" else 2]:
            for label in "ab"[: 1 if name == "one_class" else 2]:
                (folder / name / split / label).mkdir(parents=True)
                for i in range(4):
                    image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                    image.save(folder / name / split / label / f"{i}.png")
    (folder / "broken" / "train" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "broken" / "train" / "a" / "1.png").write_bytes(b"")
    (folder / "broken" / "test" / "b" / "link.png").symlink_to("nowhere")
    (folder / "empty" / "train").mkdir(parents=True)
    (folder / "no_images" / "train" / "a").mkdir(parents=True)
    (folder / "no_images" / "train" / "a" / "x.png").mkdir()
    (folder / "bad_tar").mkdir()
    (folder / "bad_tar" / "train.tar").write_bytes(b"no tar")
    (folder / "bad_tar" / "test.tar").write_bytes(b"\0" * 10240)


def _safetensors(header: object, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def _make_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save, save_file

    from timm_jackpot.base import load_base

    folder.mkdir()
    state = load_base("digits_resnet").model.state_dict()
    save_file(state, folder / "sound.safetensors")
    data = save(state)
    size = int.from_bytes(data[:8], "little")
    changes: dict[str, dict[str, Any]] = {
        "nan": {
            name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state.items()
        },
        "half": {name: tensor.half() for name, tensor in state.items()},
        "ints": {name: tensor.to(torch.int64) for name, tensor in state.items()},
        "bools": {name: tensor.bool() for name, tensor in state.items()},
        "complex": {name: tensor.to(torch.complex64) for name, tensor in state.items()},
        "float8": {name: tensor.to(torch.float8_e5m2) for name, tensor in state.items()},
        "scalar_head": {**state, "fc.weight": torch.tensor(1.0)},
        "no_classes": {**state, "fc.weight": torch.zeros(0, 80), "fc.bias": torch.zeros(0)},
        "wide_head": {**state, "fc.weight": torch.zeros(10, 7)},
        "many_classes": {**state, "fc.weight": torch.zeros(10**12, 0), "fc.bias": torch.zeros(10)},
        "missing": {name: tensor for name, tensor in state.items() if not name.startswith("layer2")},
        "extra": {**state, "extra": torch.zeros(3)},
        "nothing": {},
        "odd_names": {f"../{name}\n": tensor for name, tensor in state.items()},
        "statistics": {**state, "bn1.running_var": -state["bn1.running_var"]},
    }
    for name, tensors in changes.items():
        save_file(tensors, folder / f"{name}.safetensors")
    one = {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}
    texts = {
        "empty": b"", "short": data[:4], "cut": data[:-1], "cut_header": data[: size // 2], "zeros": b"\0" * 100,
        "text": b"no weights",
        "huge_header": _safetensors(b"{}", size=2**63), "no_json": _safetensors(b"{{{"), "list": _safetensors([1]),
        "null": _safetensors(None),
        "giant": _safetensors({"fc.weight": one}, b"\0" * 4),
        "offsets": _safetensors({"fc.weight": {**one, "shape": [1], "data_offsets": [4, 0]}}),
        "negative": _safetensors({"fc.weight": {**one, "shape": [-1]}}, b"\0" * 4),
        "deep": _safetensors(b"[" * 10_000),
        "trailing": data + b"x", "pickle": b"\x80\x02}q\x00.",
    }  # fmt: skip
    for name, content in texts.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "link.safetensors").symlink_to("nowhere.safetensors")
    (folder / "pickle.bin").write_bytes(b"\x80\x02}q\x00.")
    with (folder / "sparse.safetensors").open("wb") as file:
        file.truncate(10**11)


def _make_bases(folder: Path) -> None:
    """Folders as timm saves them, each with something wrong in config.json, or with hostile weights."""
    from timm.models._hub import save_config_for_hf

    from timm_jackpot.base import load_base

    folder.mkdir()
    sound = folder / "sound"
    sound.mkdir()
    os.link(folder.parent / "weights" / "sound.safetensors", sound / "model.safetensors")
    save_config_for_hf(load_base("digits_resnet").model, str(sound / "config.json"))
    config = json.loads((sound / "config.json").read_text())
    huge = 10**12
    top: dict[str, Any] = {
        "architecture": [None, 1, "", "nothing", "../x", "resnet50", "x" * 10_000, ["digits_resnet"], {"a": 1},
        "test_vit"],
        "num_classes": [None, 0, -1, huge, 2**70, 1.5, "10", [10], True],
        "num_features": [None, -1, huge, "x"],
        "global_pool": [None, "", "nothing", 1, [1]],
        "model_args": [None, 1, [], "x", {"num_classes": huge}, {"in_chans": huge}, {"in_chans": "x"},
        {"img_size": huge}, {"img_size": [1, 2, 3]},
                       {"img_size": []}, {"img_size": {}}, {"img_size": "x"}, {"img_size": [[1], [2]]},
                       {"channels": [huge] * 4}, {"layers": [huge] * 4},
                       {"drop_rate": "x"}, {"drop_rate": -1}, {"act_layer": "x"}, {"output_stride": 0},
                       {"global_pool": "x"}, {"block_dpr": huge},
                       {"aa_layer": "x"}, {"bn_eps": 1e999}, {"norm_layer": ""}, {"replace_stem_pool": "x"},
                       {"pretrained": True}, {"checkpoint_path": "/etc/passwd"}],
        "pretrained_cfg": [None, 1, [], "x", {}],
        "label_names": [1, "x", [1] * 3, {"a": None}],
        "label_descriptions": [1, "x"],
    }  # fmt: skip
    nested: dict[str, Any] = {
        "input_size": [None, [], [3], [3, 32], [3, huge, huge], [3, 0, 0], [-3, 32, 32], "x", ["a", "b", "c"],
        [3, 1.5, 32], [7, 32, 32], {}, [3, [1], 2]],
        "test_input_size": [[3, huge, huge], "x"], "min_input_size": ["x"], "fixed_input_size": ["x", True],
        "pool_size": ["x", [huge, huge]],
        "mean": [None, [], [1], 1, "x", ["a", "b", "c"], [1e999] * 3, [0.5] * 10_000, {}], "std": [None, [0, 0, 0],
        [1], "x", [-1] * 3],
        "crop_pct": [None, 0, -1, 1e-300, 1e300, "x", [1]], "crop_mode": ["x", 1, []], "interpolation": ["x", 1,
        None, []],
        "num_classes": [huge, -1, "x", None, 0], "first_conv": [1, None, "x", ["a", "b"], {}, [["a"]]],
        "classifier": [1, None, "x", ["a"], {}, ""],
        "file": ["/etc/passwd"], "url": ["file:///etc/passwd", 1], "hf_hub_id": ["user/name", 1], "source": ["x"],
        "custom_load": [True, "hf"],
        "architecture": ["x", 1], "tag": [1, "x" * 300, "a/b", ""], "num_features": ["x"], "state_dict": [{}, 1],
        "nothing": [1], "license": [1],
    }  # fmt: skip
    variants = {f"{key}_{i}": {**config, key: value} for key, values in top.items() for i, value in enumerate(values)}
    for key, values in nested.items():
        for i, value in enumerate(values):
            variants[f"cfg_{key}_{i}"] = {**config, "pretrained_cfg": {**config["pretrained_cfg"], key: value}}
    variants |= {f"no_{key}": {k: v for k, v in config.items() if k != key} for key in config}
    texts = {name: json.dumps(value).encode() for name, value in variants.items()}
    texts |= {
        "deep": b"[" * 100_000, "deep_object": b'{"a":' * 100_000, "empty": b"",
        "latin": b'{"architecture": "\xe9"}', "null": b"null", "list": b"[]",
        "long_int": b'{"num_classes": ' + b"9" * 5000 + b"}", "nan": b"NaN", "zeros": b"\0" * 100,
        "flat": json.dumps(config["pretrained_cfg"]).encode(),
        "deep_inside": json.dumps(config)[:-1].encode() + b', "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes(text)
        os.link(sound / "model.safetensors", folder / name / "model.safetensors")
    for path in sorted((folder.parent / "weights").glob("*.safetensors")):
        base = folder / f"weights_{path.stem}"
        base.mkdir()
        (base / "config.json").write_text(json.dumps(config))
        (base / "model.safetensors").symlink_to(f"../../weights/{path.name}")
    for name, size in (("sparse_config", 10**10), ("large_config", 10**8)):
        (folder / name).mkdir()
        with (folder / name / "config.json").open("wb") as file:
            file.truncate(size)
    (folder / "pipe_config").mkdir()
    os.mkfifo(folder / "pipe_config" / "config.json")
    (folder / "only_config").mkdir()
    (folder / "only_config" / "config.json").write_text(json.dumps(config))
    (folder / "nothing").mkdir()


def _make_artifacts(folder: Path, good: Path) -> None:
    """A few of each kind; tests/hostile.py has the whole corpus."""
    folder.mkdir()

    def edit(name: str, **changes: Any) -> None:
        shutil.copytree(good, folder / name)
        config = json.loads((good / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps({**config, **changes}))

    config = json.loads((good / "config.json").read_text())
    edit("no_layers", layers=[])
    edit("layers", layers=[{"name": "x"}])
    edit("base", base={**config["base"], "num_classes": 10**12})
    edit("hub", base={**config["base"], "source": "timm", "hub_id": "user/name"})
    edit("info", info={})
    edit("recipe", info={**config["info"], "config": {"steps": 10**9, "lr": "x"}})
    edit("extra", nonsense=1)
    for name, file, content in (
        ("deep", "config.json", b"[" * 100_000),
        ("empty", "config.json", b""),
        ("masks", "masks.safetensors", b"\0" * 1000),
        ("yaml", "recipe.yaml", b"lr: " + b"[" * 1000),
        ("record", "record.jsonl", b"{" * 1000),
        ("card", "README.md", b"\xff" * 100),
        ("audit", "audit.json", b"[]"),
    ):
        shutil.copytree(good, folder / name)
        (folder / name / file).write_bytes(content)
    for missing in ("masks.safetensors", "extras.safetensors", "recipe.yaml", "record.jsonl", "README.md"):
        shutil.copytree(good, folder / f"no_{missing}", ignore=shutil.ignore_patterns(missing))
    shutil.copytree(good, folder / "sound")
