"""Write a jackpot as an artifact folder: all of it, or nothing."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save
from torch import Tensor

from timm_jackpot.artifact.compact import compact_on
from timm_jackpot.artifact.extras import encode_extra, stored_dtype
from timm_jackpot.artifact.jackpot import Extra, Jackpot
from timm_jackpot.artifact.read import Artifact, parse_config
from timm_jackpot.artifact.schema import COMPACT, CONFIG, EXTRAS, FORMAT, MASKS, MAX_CONFIG_BYTES, Encoding, ExtrasDtype
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import read_bytes
from timm_jackpot.base import Base
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.masks import MaskSet, pack
from timm_jackpot.runtime.outputs import partial_name, sync, write_synced

# Everything that an artifact folder may contain; a folder with other files in it is never replaced.
_KNOWN_FILES = {
    CONFIG,
    MASKS,
    EXTRAS,
    "README.md",
    "plots",
    "record.jsonl",
    "record.partial.jsonl",
    "recipe.yaml",
    "audit.json",
    "audit.partial.json",
    "audit.predictions.json",
    "checkpoints",
}
_KNOWN_FILES |= {partial_name(name) for name in _KNOWN_FILES}  # partial files left by a killed run


def save_pretrained(
    jackpot: Jackpot,
    folder: str | Path,
    *,
    encoding: Encoding = "packed",
    extras_dtype: ExtrasDtype = "float32",
    attachments: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> Path:
    """Save `jackpot` as an artifact (hubcards/FORMAT.md).

    The folder is written under a temporary name, synced and renamed: readers never see a partial artifact.

    Args:
        encoding: packed takes one bit per weight; compact takes about a quarter of that for masks searched from
            magnitudes, but decoding it needs the base's weights.
        extras_dtype: float32 keeps norm statistics, norms and head as they are; float16 and bfloat16 halve them; int8
            stores a head's matrix in a quarter of its bytes, and the rest as float16.
        attachments: other files by name (card, record, recipe); not needed for loading.
        overwrite: replace an artifact that is already there.

    Raises:
        ArtifactError: if `folder` already holds an artifact or cannot be written, if the jackpot's own data are
            not valid in an artifact, or if a value is too large for `extras_dtype`.
        ConfigError: for an unknown encoding or dtype.
        BaseMismatchError: for compact masks, if the base's weights have changed since loading.
    """
    folder = Path(folder).resolve()
    check_target(folder, overwrite=overwrite)
    return replace_folder(folder, {**dict(attachments or {}), **artifact_files(jackpot, encoding, extras_dtype)})


def recode(artifact: Artifact, base: Base, encoding: Encoding) -> dict[str, bytes]:
    """Re-encode an artifact's masks; returns the new contents of masks.safetensors and config.json.

    Args:
        base: unchanged since loading (`open_artifact`).

    Raises:
        BaseMismatchError: if it is not the base of the masks.
    """
    text = read_bytes(artifact.folder / CONFIG, MAX_CONFIG_BYTES)
    shared = _shared_metadata(artifact.config.base.digest, artifact.config.mask_hash, encoding)
    config: dict[str, Any] = parse_strict(text, CONFIG, max_bytes=MAX_CONFIG_BYTES)
    config.update(format=shared["format"], encoding=encoding)
    masks = save(_encoded(artifact.masks_on(base), base, encoding), {"timm_jackpot": json.dumps(shared)})
    config["files"] = {**config["files"], MASKS: _entry(masks)}
    return {MASKS: masks, CONFIG: _json(config)}


def is_artifact(folder: Path) -> bool:
    return (folder / CONFIG).exists() and (folder / MASKS).exists()


def artifact_digest(folder: Path) -> str | None:
    """The sha256 of an artifact's config.json, which holds the hashes of its tensor files; None without an artifact."""
    return hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest() if is_artifact(folder) else None


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose content must not be replaced.

    Raises:
        ArtifactError: if it holds an artifact and `overwrite` is False, or anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder")
    if is_artifact(folder) and not overwrite:
        raise ArtifactError(f"{folder} already holds a jackpot: choose another folder, or set overwrite")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _KNOWN_FILES)
    if foreign:
        raise ArtifactError(f"{folder} holds {foreign[0]}, which is not part of a jackpot: choose another folder")


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make `folder` hold exactly `files` (a name may include folders), atomically.

    Raises:
        ArtifactError: if it cannot be written; nothing is left behind.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_folder(folder, "new")
        new = temporary / folder.name  # which others may read as the umask says; `temporary` is the owner's alone
        new.mkdir()
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            write_synced(new / name, content)
        sync(new)
        _swap(new, folder)
        sync(folder.parent)
    except OSError as error:
        raise ArtifactError(f"{folder} could not be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def artifact_files(jackpot: Jackpot, encoding: Encoding = "packed", dtype: ExtrasDtype = "float32") -> dict[str, bytes]:
    """The files of an artifact by name."""
    extras: dict[str, Tensor] = {}
    for name, extra in jackpot.extras.items():
        extras |= encode_extra(name, extra.role, extra.tensor, dtype)
    shared = _shared_metadata(jackpot.base.ref.digest, jackpot.masks.hash(), encoding)
    masks = _encoded(jackpot.masks, jackpot.base, encoding)
    files = {MASKS: save(masks, {"timm_jackpot": json.dumps(shared)})}
    if extras:
        files[EXTRAS] = save(extras, {})
    return {**files, CONFIG: _json(_config(jackpot, shared, files, dtype))}


def _shared_metadata(digest: str, mask_hash: str, encoding: Encoding) -> dict[str, Any]:
    """What config.json and masks.safetensors both record."""
    return {"format": FORMAT, "digest": digest, "mask_hash": mask_hash, "encoding": encoding}


def _encoded(masks: MaskSet, base: Base, encoding: Encoding) -> dict[str, Tensor]:
    if encoding not in get_args(Encoding):
        raise ConfigError(f"masks are stored {' or '.join(get_args(Encoding))}, not {encoding!r}")
    if encoding == COMPACT:
        return {COMPACT: compact_on(masks, base)}
    return {name: pack(mask) for name, mask in masks.items()}


def _json(config: Mapping[str, Any]) -> bytes:
    text = json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parse_config(text.encode())  # never write what we could not read
    return text.encode()


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _config(
    jackpot: Jackpot, shared: Mapping[str, Any], files: Mapping[str, bytes], dtype: ExtrasDtype
) -> dict[str, Any]:
    from timm_jackpot import __version__

    base, masks = jackpot.base, jackpot.masks
    head = [name for name, extra in jackpot.extras.items() if extra.role == "head"]
    kept = masks.kept_per_layer()
    data = {key: jackpot.data[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")}
    info = {**jackpot.info, **({"adapted": list(base.adapted)} if base.adapted else {})}
    return {
        "format": FORMAT,
        "producer": {"name": "timm_jackpot", "version": __version__},
        "base": base.ref.model_dump(),
        "sparsity": {
            "requested": jackpot.sparsity,
            "maskable": [masks.kept, masks.total],
            "all_parameters": list(jackpot.kept_of_all),
        },
        "allocation": _allocation(jackpot.allocation),
        "layers": [
            {"name": name, "shape": list(mask.shape), "kept": kept[name], "sha256": base.tensors[name].sha256}
            for name, mask in masks.items()
        ],
        "dense": [weight._asdict() for weight in jackpot.maskable.dense],
        "aliases": jackpot.maskable.aliases,
        "extras": [_extra_entry(name, extra, dtype) for name, extra in jackpot.extras.items()],
        "head": {
            "names": head,
            "num_classes": base.ref.num_classes,
            "labels": None if jackpot.labels is None else list(jackpot.labels),
        }
        if head
        else None,
        "data": data,
        "encoding": shared["encoding"],
        "mask_hash": shared["mask_hash"],
        "files": {name: _entry(content) for name, content in files.items()},
        "info": info,
    }


def _extra_entry(name: str, extra: Extra, dtype: ExtrasDtype) -> dict[str, Any]:
    stored = stored_dtype(extra.role, extra.tensor.dim(), dtype)
    entry = {"name": name, "shape": list(extra.tensor.shape), "role": extra.role}
    return entry if stored == "F32" else {**entry, "dtype": stored}


def _allocation(text: str) -> dict[str, Any]:
    """The allocation as config.json has it; a pattern such as `2:4` becomes n:m with two numbers."""
    n, separator, m = text.partition(":")
    return {"name": "n:m", "n": int(n), "m": int(m)} if separator else {"name": text, "n": None, "m": None}


def _swap(new: Path, folder: Path) -> None:
    """Replace `folder` by `new`. The old content is moved aside and deleted only when `new` is in place.

    A kill between the two renames leaves no `folder`; `recover_folder` then restores the old content.
    """
    if not folder.exists():
        new.rename(folder)
        return
    aside = _temporary_folder(folder, "old")
    old = aside / folder.name
    try:
        folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        aside.rmdir()  # fails if the old content is still in it, which keeps that safe
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _temporary_folder(folder: Path, kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=f".{kind}", dir=folder.parent))


def recover_folder(folder: Path) -> None:
    """Clean up after a killed `replace_folder`: restore the old content and delete temporary folders.

    The caller must hold the lock on `folder`.

    Raises:
        ArtifactError: if it cannot be written.
    """
    random_part = 8 * "?"  # mkdtemp's; `*` could match folders with longer names
    name = glob.escape(folder.name)
    try:
        for aside in folder.parent.glob(f".{name}.{random_part}.old"):
            if (aside / folder.name).exists() and not folder.exists():
                (aside / folder.name).rename(folder)
            shutil.rmtree(aside)
        for aside in folder.parent.glob(f".{name}.{random_part}.new"):
            shutil.rmtree(aside)
    except OSError as error:
        raise ArtifactError(f"{folder} could not be recovered: {error.strerror or error}") from error
