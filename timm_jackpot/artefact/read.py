"""Read an artefact folder and check that it agrees with itself. Needs no base, builds no model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from timm_jackpot.artefact.schema import CONFIG, EXTRAS, FORMAT, MASKS, MAX_CONFIG_BYTES, Config
from timm_jackpot.artefact.strict_json import parse_strict
from timm_jackpot.artefact.tensors_file import read_bytes, read_tensors
from timm_jackpot.errors import ArtefactError
from timm_jackpot.masks import MaskSet, packed_bytes, unpack


@dataclass(frozen=True)
class Artefact:
    """A folder that agrees with itself; whether it fits a base is for `from_pretrained` to see."""

    folder: Path
    config: Config
    masks: MaskSet
    extras: dict[str, Tensor]


def read_artefact(folder: str | Path) -> Artefact:
    """Read config, masks and extras.

    Raises:
        ArtefactError: if anything is missing, damaged, contradictory or of a newer format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtefactError(f"there is no artefact folder {folder}")
    config = read_config(folder)
    packed, metadata = read_tensors(
        _checked_bytes(folder, config, MASKS),
        MASKS,
        "U8",
        {layer.name: (packed_bytes(prod(layer.shape)),) for layer in config.layers},
    )
    _check_metadata(config, metadata)
    extras: dict[str, Tensor] = {}
    if config.extras:
        data = _checked_bytes(folder, config, EXTRAS)
        extras, _ = read_tensors(data, EXTRAS, "F32", {extra.name: extra.shape for extra in config.extras})
        _check_finite(extras)
    return Artefact(folder, config, _unpack_all(config, packed), extras)


def read_config(folder: Path) -> Config:
    """Read and validate config.json alone.

    Raises:
        ArtefactError: as `read_artefact`.
    """
    text = read_bytes(folder / CONFIG, MAX_CONFIG_BYTES)
    raw = parse_strict(text, CONFIG, max_bytes=MAX_CONFIG_BYTES)
    version = raw.get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ArtefactError(f"{folder} is in format {version}, newer than {FORMAT}: upgrade timm-jackpot")
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtefactError(f"{CONFIG} is not valid at {where or 'its top'}: {first['msg']}") from error
    _check_counts(config)
    return config


def _check_counts(config: Config) -> None:
    names = [layer.name for layer in config.layers]
    lists = [names, [entry.name for entry in config.dense], [entry.name for entry in config.extras]]
    if any(len(set(listed)) != len(listed) for listed in lists):
        raise ArtefactError(f"{CONFIG} names a tensor twice")
    moved = {extra.name for extra in config.extras} & set(names)
    if moved:
        raise ArtefactError(f"{CONFIG} lists {sorted(moved)[0]} both as masked and as extra: masked weights never move")
    sizes = [prod(layer.shape) for layer in config.layers]
    if any(layer.kept > size for layer, size in zip(config.layers, sizes, strict=True)):
        raise ArtefactError(f"{CONFIG} keeps more weights of a layer than it has")
    if config.sparsity.maskable != (sum(layer.kept for layer in config.layers), sum(sizes)):
        raise ArtefactError(f"{CONFIG}: the sparsity does not agree with the counts of the layers")
    expected_files = {MASKS, EXTRAS} if config.extras else {MASKS}
    if set(config.files) != expected_files:
        raise ArtefactError(f"{CONFIG} lists files {sorted(config.files)}, expected {sorted(expected_files)}")
    if {e.name for e in config.extras if e.role == "head"} != set(config.head.names if config.head else ()):
        raise ArtefactError(f"{CONFIG}: head and extras name different tensors")


def _checked_bytes(folder: Path, config: Config, name: str) -> bytes:
    entry = config.files[name]  # pyright: ignore[reportArgumentType]
    data = read_bytes(folder / name, entry.bytes)
    if len(data) != entry.bytes:
        raise ArtefactError(f"{name} is truncated: {len(data)} of {entry.bytes} bytes; fetch the artefact again")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ArtefactError(f"{name} is damaged: its sha256 is not the recorded one; fetch the artefact again")
    return data


def _check_metadata(config: Config, metadata: dict[str, str]) -> None:
    expected = {
        "format": config.format,
        "digest": config.base.digest,
        "mask_hash": config.mask_hash,
        "encoding": config.encoding,
    }
    text = metadata.get("timm_jackpot") if isinstance(metadata, dict) else None
    found = parse_strict(text.encode(), f"the metadata of {MASKS}", max_bytes=65536) if isinstance(text, str) else None
    if found != expected:
        raise ArtefactError(f"{MASKS} and {CONFIG} do not belong together: {json.dumps(found)[:200]}")


def _check_finite(extras: dict[str, Tensor]) -> None:
    for name, tensor in extras.items():
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{EXTRAS}: {name} holds values that are not finite")


def _unpack_all(config: Config, packed: dict[str, Tensor]) -> MaskSet:
    masks = {}
    for layer in config.layers:
        try:
            mask = unpack(packed[layer.name], layer.shape)
        except ValueError as error:
            raise ArtefactError(f"{MASKS}: {layer.name}: {error}") from error
        if int(mask.count_nonzero()) != layer.kept:
            raise ArtefactError(f"{MASKS}: {layer.name} does not keep the {layer.kept} weights that {CONFIG} says")
        masks[layer.name] = mask
    found = MaskSet(masks)
    if found.hash() != config.mask_hash:
        raise ArtefactError(f"{MASKS} does not match the mask hash in {CONFIG}")
    return found
