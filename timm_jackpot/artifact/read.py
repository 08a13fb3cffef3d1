"""Read an artifact folder and check that it is consistent. Needs no base weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from timm_jackpot.artifact.agreement import check_agreement
from timm_jackpot.artifact.compact import check_layers
from timm_jackpot.artifact.extras import check_extra, decode_extra, extra_specs
from timm_jackpot.artifact.fit import check_without_base
from timm_jackpot.artifact.schema import (
    COMPACT,
    CONFIG,
    EXTRAS,
    FORMAT,
    MASKS,
    MAX_CONFIG_BYTES,
    PACKED_ONLY_FORMAT,
    Config,
)
from timm_jackpot.artifact.strict_json import parse_strict
from timm_jackpot.artifact.tensors_file import (
    MAX_HEADER,
    Spec,
    body_bytes,
    bytes_after_header,
    read_bytes,
    read_tensors,
)
from timm_jackpot.artifact.ticket import INNER, is_ticket
from timm_jackpot.base import Base
from timm_jackpot.errors import ArtifactError
from timm_jackpot.masks import (
    MaskSet,
    RankedMasks,
    decode_compact,
    is_n_of_m,
    keeps_filters,
    most_compact_bytes,
    packed_bytes,
    unpack,
)
from timm_jackpot.schema import fault_of


@dataclass(frozen=True)
class Artifact:
    """An artifact folder that is consistent with itself; `from_pretrained` checks that it fits a base.

    Compact masks are decoded here as far as possible without the base: the stream is valid and its counts match the
    config. Which weights of a layer are kept is decoded, and the mask hash checked, by `masks_on`.
    """

    folder: Path
    config: Config
    extras: dict[str, Tensor]  # as float32, whatever dtype they are stored in
    shapes_checked: bool  # whether the config was compared with the base's shapes

    @cached_property
    def stored(self) -> MaskSet | RankedMasks:
        """The masks as stored in the file, read on first use.

        Raises:
            ArtifactError: as `read_artifact`.
        """
        return (_read_compact if self.config.encoding == COMPACT else _read_packed)(self.folder, self.config)

    @property
    def masks(self) -> MaskSet:
        """The masks of a packed artifact.

        Raises:
            ArtifactError: if they are compact.
        """
        if isinstance(self.stored, RankedMasks):
            raise ArtifactError(
                f"the masks in {self.folder} are compact: they can be decoded only with the weights of their base"
            )
        return self.stored

    def masks_on(self, base: Base) -> MaskSet:
        """The masks in either encoding; `base` must be unchanged since loading.

        Raises:
            BaseMismatchError: if a layer needed for decoding is not the one the mask was searched on.
            ArtifactError: if compact masks do not have the recorded hash.
        """
        if isinstance(self.stored, MaskSet):
            return self.stored
        check_layers(self.config, base.tensors)
        masks = self.stored.on(base.model.state_dict())
        _check_masks(self.config, masks)
        return masks


def read_artifact(folder: str | Path, *, check: Callable[[Config], object] | None = None) -> Artifact:
    """Read config, masks and extras.

    Args:
        check: called with the config before anything else is read; it raises if the config does not fit its base.
            Default: compare the config with the architecture that it names. A custom module has none; its masks are
            unpacked on first use.

    Raises:
        ArtifactError: if anything is missing, damaged, contradictory or in a newer format.
        BaseError, BaseMismatchError: if the architecture cannot be built or does not match.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ArtifactError(f"there is no artifact folder {folder}")
    config = read_config(folder)
    shapes_checked = run_check(config, check)
    extras: dict[str, Tensor] = {}
    if config.extras:
        specs = {name: spec for entry in config.extras for name, spec in extra_specs(entry).items()}
        body = body_bytes(specs)
        stored, _ = read_tensors(_checked_bytes(folder, config, EXTRAS, body, body), EXTRAS, specs)
        for entry in config.extras:
            check_extra(entry, stored)
            extras[entry.name] = decode_extra(entry.name, entry.dtype, stored)
    artifact = Artifact(folder, config, extras, shapes_checked)
    if shapes_checked:
        assert artifact.stored is not None  # reading checks it
    else:
        _mask_bytes(folder, config)
    return artifact


def run_check(config: Config, check: Callable[[Config], object] | None) -> bool:
    """Run `check`, or the default one; returns whether the config was compared with a base.

    Raises:
        JackpotError: as `read_artifact`.
    """
    if check is None:
        return check_without_base(config)
    check(config)
    return True


def read_config(folder: Path) -> Config:
    """Read and validate config.json alone.

    Raises:
        ArtifactError: as `read_artifact`.
    """
    if is_ticket(folder):
        raise ArtifactError(
            f"{folder} holds a ticket, whose weights are trained, and no jackpot: its network is the model local-dir:"
            f"{folder}, and {Path(folder) / INNER} is an artifact with its mask on the weights that it began from"
        )
    return parse_config(read_bytes(folder / CONFIG, MAX_CONFIG_BYTES))


def parse_config(text: bytes) -> Config:
    """Validate the bytes of config.json.

    Raises:
        ArtifactError: as `read_artifact`.
    """
    version = parse_strict(text, CONFIG, max_bytes=MAX_CONFIG_BYTES).get("format")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise ArtifactError(f"the artifact is in format {version}, newer than {FORMAT}: upgrade timm-jackpot")
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{CONFIG} is not valid {fault_of(error)}") from error
    if config.format == PACKED_ONLY_FORMAT and config.encoding != "packed":
        raise ArtifactError(
            f"compact masks of format {config.format} are no longer supported: use the version of timm-jackpot that "
            "wrote them to store them packed"
        )
    check_agreement(config)
    return config


def _read_packed(folder: Path, config: Config) -> MaskSet:
    packed, metadata = read_tensors(_mask_bytes(folder, config), MASKS, _packed_specs(config))
    _check_metadata(config, metadata)
    for layer in config.layers:  # before unpacking, which takes eight times the memory
        if int(np.bitwise_count(packed[layer.name].numpy()).sum(dtype=np.int64)) != layer.kept:
            raise ArtifactError(f"{MASKS}: {layer.name} does not keep the {layer.kept} weights stated in {CONFIG}")
    masks = {}
    for layer in config.layers:
        try:
            masks[layer.name] = unpack(packed[layer.name], layer.shape)
        except ValueError as error:
            raise ArtifactError(f"{MASKS}: {layer.name}: {error}") from error
    found = MaskSet(masks)
    _check_masks(config, found)
    return found


def _read_compact(folder: Path, config: Config) -> RankedMasks:
    data = _mask_bytes(folder, config)
    tensors, metadata = read_tensors(data, MASKS, {COMPACT: ("U8", (bytes_after_header(data, MASKS),))})
    _check_metadata(config, metadata)
    try:
        return decode_compact(tensors[COMPACT], {layer.name: (layer.total, layer.kept) for layer in config.layers})
    except ValueError as error:
        raise ArtifactError(f"{MASKS} holds invalid compact masks: {error}") from error


def _mask_bytes(folder: Path, config: Config) -> bytes:
    if config.encoding == COMPACT:
        least, most = 1, most_compact_bytes(layer.total for layer in config.layers)
    else:
        least = most = body_bytes(_packed_specs(config))
    return _checked_bytes(folder, config, MASKS, least, most)


def _packed_specs(config: Config) -> dict[str, Spec]:
    return {layer.name: ("U8", (packed_bytes(layer.total),)) for layer in config.layers}


def _checked_bytes(folder: Path, config: Config, name: str, least: int, most: int) -> bytes:
    """Read a file and check its recorded size and hash; its tensors take `least` to `most` bytes."""
    entry = config.files[name]  # pyright: ignore[reportArgumentType]
    if not least < entry.bytes <= 8 + MAX_HEADER + most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        raise ArtifactError(f"{name} cannot have {entry.bytes} bytes: its tensors take {expected}")
    data = read_bytes(folder / name, entry.bytes)
    if len(data) != entry.bytes:
        raise ArtifactError(f"{name} is truncated: {len(data)} of {entry.bytes} bytes; download the artifact again")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ArtifactError(f"{name} is damaged: its sha256 is not the recorded one; download the artifact again")
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
    if json.dumps(found, sort_keys=True) != json.dumps(expected, sort_keys=True):  # in JSON, true, 1 and 1.0 differ
        raise ArtifactError(f"{MASKS} and {CONFIG} do not belong together: {json.dumps(found)[:200]}")


def _check_masks(config: Config, found: MaskSet) -> None:
    n, m = config.allocation.n, config.allocation.m
    for name, mask in found.items():
        if n is not None and m is not None and not is_n_of_m(mask, n, m):
            raise ArtifactError(f"{MASKS}: {name} does not keep {n} of every {m} weights, as {CONFIG} says")
        if config.allocation.name == "filters" and not keeps_filters(mask):
            raise ArtifactError(f"{MASKS}: {name} does not keep whole filters, as {CONFIG} says")
    assert list(found.kept_per_layer().values()) == [layer.kept for layer in config.layers]
    if found.hash() != config.mask_hash:
        raise ArtifactError(f"{MASKS} does not match the mask hash in {CONFIG}")
