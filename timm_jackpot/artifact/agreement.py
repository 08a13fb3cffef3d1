"""Check that a config.json is consistent with itself."""

from __future__ import annotations

from math import prod

from timm_jackpot.artifact.extras import may_be_int8
from timm_jackpot.artifact.schema import CONFIG, EXTRAS, MASKS, MAX_EXTRAS, MAX_PIXELS, MAX_WEIGHTS, Config
from timm_jackpot.errors import ArtifactError, ConfigError
from timm_jackpot.masks import kept_count, kept_filters


def check_agreement(config: Config) -> None:
    """Raises: ArtifactError: if its names, counts, head or data contradict each other."""
    _check_names(config)
    _check_dtypes(config)
    _check_counts(config)
    _check_head(config)
    _check_data(config)


def _check_names(config: Config) -> None:
    names = [layer.name for layer in config.layers]
    lists = [names, [entry.name for entry in config.dense], [entry.name for entry in config.extras]]
    if any(len(set(listed)) != len(listed) for listed in lists):
        raise ArtifactError(f"{CONFIG} names a tensor twice")
    both = {extra.name for extra in config.extras} & set(names)
    if both:
        raise ArtifactError(f"{CONFIG} lists {min(both)} both as masked and as an extra, but masked weights are frozen")
    adapted = config.info.get("adapted", [])
    if not isinstance(adapted, list) or not all(isinstance(name, str) for name in adapted):
        raise ArtifactError(f"{CONFIG}: info.adapted is not a list of tensor names")
    expected_files = {MASKS, EXTRAS} if config.extras else {MASKS}
    if set(config.files) != expected_files:
        raise ArtifactError(f"{CONFIG} lists files {sorted(config.files)}, expected {sorted(expected_files)}")


def _check_dtypes(config: Config) -> None:
    wrong = next((e.name for e in config.extras if e.dtype == "I8" and not may_be_int8(e.role, len(e.shape))), None)
    if wrong is not None:
        raise ArtifactError(f"{CONFIG} says that {wrong} is stored as I8, but only matrices of the head may be")


def _check_counts(config: Config) -> None:
    if not config.layers:
        raise ArtifactError(f"{CONFIG} lists no masked layers")
    sizes = [prod(layer.shape) for layer in config.layers]
    if any(layer.kept > size for layer, size in zip(config.layers, sizes, strict=True)):
        raise ArtifactError(f"{CONFIG}: a layer keeps more weights than it has")
    if sum(sizes) > MAX_WEIGHTS or sum(prod(extra.shape) for extra in config.extras) > MAX_EXTRAS:
        raise ArtifactError(f"{CONFIG} lists more weights than this format allows")
    kept, total = config.sparsity.maskable
    if (kept, total) != (sum(layer.kept for layer in config.layers), sum(sizes)):
        raise ArtifactError(f"{CONFIG}: the sparsity does not match the layers' counts")
    kept_of_all, all_parameters = config.sparsity.all_parameters
    if all_parameters < max(total, 1) or all_parameters - kept_of_all != total - kept:
        raise ArtifactError(f"{CONFIG}: the sparsities of maskable weights and of all parameters do not match")
    requested = config.sparsity.requested
    try:
        if config.allocation.name == "filters":
            expected = sum(kept_filters(layer.shape, requested) for layer in config.layers)
        else:
            expected = kept_count(total, requested)
    except ConfigError as error:
        raise ArtifactError(f"{CONFIG}: {error}") from error
    if kept != expected:
        raise ArtifactError(
            f"{CONFIG}: a sparsity of {requested} keeps {expected} of {total} weights, but the layers keep {kept}"
        )
    is_pattern = config.allocation.name == "n:m"
    if any((number is not None) != is_pattern for number in (config.allocation.n, config.allocation.m)):
        raise ArtifactError(f"{CONFIG}: n and m must be set for the allocation n:m, and only for it")


def _check_head(config: Config) -> None:
    head = config.head
    if sorted(e.name for e in config.extras if e.role == "head") != sorted(head.names if head else ()):
        raise ArtifactError(f"{CONFIG}: head and extras name different tensors")
    if head and head.num_classes != config.base.num_classes:
        raise ArtifactError(
            f"{CONFIG}: the head has {head.num_classes} classes, but the base has {config.base.num_classes}"
        )
    if head and head.labels is not None and len(head.labels) != head.num_classes:
        raise ArtifactError(f"{CONFIG}: there are {len(head.labels)} labels for {head.num_classes} classes")


def _check_data(config: Config) -> None:
    channels = config.data.input_size[0]
    if channels != config.base.in_chans:
        raise ArtifactError(f"{CONFIG}: the images have {channels} channels, but the base takes {config.base.in_chans}")
    side = max(config.data.input_size[1:]) / config.data.crop_pct
    if side > MAX_PIXELS:
        raise ArtifactError(f"{CONFIG}: images would be resized to {side:.4g} pixels, more than {MAX_PIXELS}")
    if not len(config.data.mean) == len(config.data.std) == channels:
        raise ArtifactError(f"{CONFIG}: mean and std must have one number for each of the {channels} channels")
