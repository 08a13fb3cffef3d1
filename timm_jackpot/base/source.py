"""Find the source of a base before building it: timm's published weights, a folder, a Hub repo or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from timm.models import get_pretrained_cfg, is_model, split_model_name_tag

from timm_jackpot.base.build import did_you_mean
from timm_jackpot.base.hub_files import download
from timm_jackpot.base.ref import MAX_CLASSES, MODEL_KWARGS
from timm_jackpot.base.saved_config import read_saved_config
from timm_jackpot.errors import BaseError, BaseMismatchError

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Source:
    """Where a base comes from."""

    kind: str  # "timm" or "file"
    name: str  # the name for timm.create_model
    architecture: str
    tag: str | None
    weights: Path
    hub_id: str | None = None
    revision: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)  # set by the source's own config


def find_source(name: str, checkpoint: Path | None, revision: str | None, hub: dict[str, Any]) -> Source:
    """The source of a model with this timm name; its files are downloaded if necessary.

    Raises:
        BaseError: if there is none.
        HubError: if a download fails.
    """
    prefix, _, rest = name.partition(":")
    if prefix == "local-dir":
        return _find_folder(name, Path(rest), checkpoint)
    if prefix in ("hf-hub", "hf_hub"):
        repo, _, at = rest.partition("@")
        return _find_repo(repo, revision or at or None, checkpoint, hub)
    architecture, tag = split_model_name_tag(name)
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # timm raises it for an unknown tag
        cfg = None
    if cfg is None and is_model(architecture) and not tag and checkpoint is not None:
        return Source("file", architecture, architecture, None, _existing(checkpoint))
    if cfg is None:
        raise BaseError(f"unknown model {name!r}{did_you_mean(name)}")
    if checkpoint is not None:
        return Source("file", architecture, architecture, None, _existing(checkpoint))
    tag = tag or cfg.tag or None
    full_name = f"{architecture}.{tag}" if tag else architecture
    if cfg.file:
        return Source("timm", full_name, architecture, tag, _existing(Path(cfg.file)))
    if not cfg.hf_hub_id:
        raise BaseError(
            f"{full_name} has no published weights on the Hugging Face Hub: give your own with "
            "--base-checkpoint FILE.safetensors, or train them with `python -m timm_jackpot.pretrain`"
        )
    hub_id = cfg.hf_hub_id.partition("@")[0]
    filename = cfg.hf_hub_filename or ""
    candidates = [filename if filename.endswith(".safetensors") else _WEIGHTS, "open_clip_model.safetensors"]
    path, commit = download(hub_id, candidates, revision=revision or cfg.hf_hub_id.partition("@")[2], **hub)
    return Source("timm", full_name, architecture, tag, path, hub_id, commit)


def _find_folder(name: str, folder: Path, checkpoint: Path | None) -> Source:
    config = folder / "config.json"
    if not os.path.isfile(config):
        raise BaseError(f"{folder} has no config.json: local-dir: takes a folder saved by timm")
    architecture, tag, args = read_saved_config(config, str(folder))
    return Source("file", name, architecture, tag, _existing(checkpoint or folder / _WEIGHTS), model_args=args)


def _find_repo(repo: str, revision: str | None, checkpoint: Path | None, hub: dict[str, Any]) -> Source:
    config, commit = download(repo, ["config.json"], revision=revision, **hub)
    architecture, tag, args = read_saved_config(config, repo)
    name = f"hf-hub:{repo}@{commit}"
    if checkpoint is not None:
        return Source("file", name, architecture, tag, _existing(checkpoint), model_args=args)
    path, _ = download(repo, [_WEIGHTS], revision=commit, **hub)
    return Source("timm", name, architecture, tag, path, repo, commit, args)


def pixels_of(source: Source) -> int | None:
    """The image size in a source's own config, written by timm as 224 or [224, 224].

    Raises:
        BaseError: if images are not square.
    """
    size = source.model_args.get("img_size")
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) > 1:
        raise BaseError(
            f"the config of {source.name} sets images of {size} pixels: an artifact can only store square ones"
        )
    return sides.pop() if sides else None


def recordable_arguments(source: Source) -> dict[str, Any]:
    """The model arguments in a source's own config, all of which an artifact can store.

    Raises:
        BaseError: if there are others: a mask for such a model could not be loaded again.
    """
    separate = {"num_classes", "in_chans", "img_size"}
    args = {key: value for key, value in source.model_args.items() if key not in separate and value is not None}
    unsupported = [
        key for key, value in args.items() if key not in MODEL_KWARGS or not isinstance(value, (bool, int, float, str))
    ]
    if unsupported:
        raise BaseError(
            f"the config of {source.name} sets the model argument {unsupported[0]!r}, which an artifact cannot store"
        )
    return args


def _existing(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise BaseError(f"{path} is not a .safetensors file: convert the checkpoint first (pickles are not read)")
    if not os.path.isfile(path):
        raise BaseError(f"checkpoint {path} does not exist")
    return path


def shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a checkpoint."""
    with safe_open(weights, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def classes_of(source: Source) -> int | None:
    """Number of classes of a checkpoint file's head, if it differs from the architecture's default; else None."""
    if source.kind != "file":
        return None
    cfg = get_pretrained_cfg(source.architecture)
    name = cfg.classifier if cfg is not None and isinstance(cfg.classifier, str) else None
    try:
        with safe_open(source.weights, framework="pt") as file:
            if f"{name}.weight" not in file.keys():  # noqa: SIM118
                return None
            classes = next(iter(file.get_slice(f"{name}.weight").get_shape()), 0)
    except (SafetensorError, OSError) as error:
        raise BaseError(f"{source.weights.name} is not a readable safetensors file: {error}") from error
    if not 1 <= classes <= MAX_CLASSES:
        raise BaseMismatchError(f"{source.weights.name} has a head of {classes} classes: expected 1 to {MAX_CLASSES}")
    return None if cfg is None or classes == cfg.num_classes else classes
