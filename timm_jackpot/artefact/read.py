"""Read an artefact folder and check that it agrees with itself. Needs no base, builds no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from timm_jackpot.artefact.schema import (
    CONFIG,
    EXTRAS,
    FORMAT,
    MASKS,
    MAX_CONFIG_BYTES,
    MAX_EXTRAS,
    MAX_WEIGHTS,
    Config,
)
from timm_jackpot.artefact.strict_json import parse_strict
from timm_jackpot.artefact.tensors_file import MAX_HEADER, body_bytes, read_bytes, read_tensors
from timm_jackpot.errors import ArtefactError, ConfigError
from timm_jackpot.masks import MaskSet, is_n_of_m, packed_bytes, parse_sparsity, unpack


@dataclass(frozen=True)
class Artefact:
    """A folder that agrees with itself; whether it fits a base is for `from_pretrained` to see."""

    folder: Path
    config: Config
    masks: MaskSet
    extras: dict[str, Tensor]


def read_artefact(folder: str | Path, *, check: Callable[[Config], object] | None = None) -> Artefact:
    """Read config, masks and extras.

    Args:
        check: called with the config before anything else is read; it may refuse by raising.

    Raises:
        ArtefactError: if anything is missing, damaged, contradictory or of a newer format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtefactError(f"there is no artefact folder {folder}")
    config = read_config(folder)
    if check:
        check(config)
    masks = {layer.name: (packed_bytes(prod(layer.shape)),) for layer in config.layers}
    packed, metadata = _checked_tensors(folder, config, MASKS, "U8", masks)
    _check_metadata(config, metadata)
    extras: dict[str, Tensor] = {}
    if config.extras:
        shapes = {extra.name: extra.shape for extra in config.extras}
        extras, _ = _checked_tensors(folder, config, EXTRAS, "F32", shapes)
        _check_values(extras)
    return Artefact(folder, config, _unpack_all(config, packed), extras)


def read_config(folder: Path) -> Config:
    """Read and validate config.json alone.

    Raises:
        ArtefactError: as `read_artefact`.
    """
    text = read_bytes(folder / CONFIG, MAX_CONFIG_BYTES)
    version = parse_strict(text, CONFIG, max_bytes=MAX_CONFIG_BYTES).get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ArtefactError(f"{folder} is in format {version}, newer than {FORMAT}: upgrade timm-jackpot")
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = repr(".".join(map(str, first["loc"])))[1:-1]  # a name from a stranger: no control characters
        raise ArtefactError(f"{CONFIG} is not valid at {where[:100] or 'its top'}: {first['msg']}") from error
    _check_names(config)
    _check_counts(config)
    _check_head(config)
    return config


def _check_names(config: Config) -> None:
    names = [layer.name for layer in config.layers]
    lists = [names, [entry.name for entry in config.dense], [entry.name for entry in config.extras]]
    if any(len(set(listed)) != len(listed) for listed in lists):
        raise ArtefactError(f"{CONFIG} names a tensor twice")
    moved = {extra.name for extra in config.extras} & set(names)
    if moved:
        raise ArtefactError(f"{CONFIG} lists {sorted(moved)[0]} both as masked and as extra: masked weights never move")
    adapted = config.info.get("adapted", [])
    if not isinstance(adapted, list) or not all(isinstance(name, str) for name in adapted):
        raise ArtefactError(f"{CONFIG}: info.adapted is not a list of tensor names")
    expected_files = {MASKS, EXTRAS} if config.extras else {MASKS}
    if set(config.files) != expected_files:
        raise ArtefactError(f"{CONFIG} lists files {sorted(config.files)}, expected {sorted(expected_files)}")


def _check_counts(config: Config) -> None:
    if not config.layers:
        raise ArtefactError(f"{CONFIG} lists no masked layer")
    sizes = [prod(layer.shape) for layer in config.layers]
    if any(layer.kept > size for layer, size in zip(config.layers, sizes, strict=True)):
        raise ArtefactError(f"{CONFIG} keeps more weights of a layer than it has")
    if sum(sizes) > MAX_WEIGHTS or sum(prod(extra.shape) for extra in config.extras) > MAX_EXTRAS:
        raise ArtefactError(f"{CONFIG} lists more weights than any network that this format is made for")
    kept, total = config.sparsity.maskable
    if (kept, total) != (sum(layer.kept for layer in config.layers), sum(sizes)):
        raise ArtefactError(f"{CONFIG}: the sparsity does not agree with the counts of the layers")
    kept_of_all, all_parameters = config.sparsity.all_parameters
    if all_parameters < max(total, 1) or all_parameters - kept_of_all != total - kept:
        raise ArtefactError(f"{CONFIG}: the two sparsities, of the maskable weights and of all, do not agree")
    try:
        parse_sparsity(config.sparsity.requested)
    except ConfigError as error:
        raise ArtefactError(f"{CONFIG}: {error}") from error
    pattern = config.allocation.name == "n:m"
    if any((number is not None) != pattern for number in (config.allocation.n, config.allocation.m)):
        raise ArtefactError(f"{CONFIG}: n and m go with the allocation n:m, and with no other")


def _check_head(config: Config) -> None:
    head = config.head
    if sorted(e.name for e in config.extras if e.role == "head") != sorted(head.names if head else ()):
        raise ArtefactError(f"{CONFIG}: head and extras name different tensors")
    if head and head.num_classes != config.base.num_classes:
        raise ArtefactError(f"{CONFIG}: the head has {head.num_classes} classes, the base {config.base.num_classes}")
    if head and head.labels is not None and len(head.labels) != head.num_classes:
        raise ArtefactError(f"{CONFIG}: {len(head.labels)} labels for {head.num_classes} classes")


def _checked_tensors(
    folder: Path, config: Config, name: str, dtype: str, shapes: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    return read_tensors(_checked_bytes(folder, config, name, body_bytes(dtype, shapes)), name, dtype, shapes)


def _checked_bytes(folder: Path, config: Config, name: str, body: int) -> bytes:
    entry = config.files[name]  # pyright: ignore[reportArgumentType]
    if not body < entry.bytes <= 8 + MAX_HEADER + body:
        raise ArtefactError(f"{name} cannot have {entry.bytes} bytes: its tensors take {body}")
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


def _check_values(extras: dict[str, Tensor]) -> None:
    for name, tensor in extras.items():
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{EXTRAS}: {name} holds values that are not finite")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ArtefactError(f"{EXTRAS}: {name} holds a negative variance")


def _unpack_all(config: Config, packed: dict[str, Tensor]) -> MaskSet:
    masks = {}
    digest = hashlib.sha256()
    for layer in config.layers:
        try:
            masks[layer.name] = unpack(packed[layer.name], layer.shape)
        except ValueError as error:
            raise ArtefactError(f"{MASKS}: {layer.name}: {error}") from error
        digest.update(packed[layer.name].numpy().data)
    found = MaskSet(masks)
    n, m = config.allocation.n, config.allocation.m
    for name, mask in found.items():
        if n is not None and m is not None and not is_n_of_m(mask, n, m):
            raise ArtefactError(f"{MASKS}: {name} does not keep {n} of every {m} weights, as {CONFIG} says")
    for layer, kept in zip(config.layers, found.kept_per_layer().values(), strict=True):
        if kept != layer.kept:
            raise ArtefactError(f"{MASKS}: {layer.name} does not keep the {layer.kept} weights that {CONFIG} says")
    if digest.hexdigest() != config.mask_hash:
        raise ArtefactError(f"{MASKS} does not match the mask hash in {CONFIG}")
    return found
