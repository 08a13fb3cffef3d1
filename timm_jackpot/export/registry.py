"""Export formats by name. To add one, decorate a function: `--format` then accepts it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from timm_jackpot.errors import ConfigError

Run = Callable[[Tensor], Tensor]
"""Images [b, c, h, w] → logits [b, classes], both float32 on the CPU."""


@dataclass(frozen=True)
class Exported:
    """A network in some format.

    Args:
        files: by name, which may include folders.
        open: opens a folder that holds these files, as their reader would; or why this machine cannot run them.
        runtime: what runs them, with its version.
        line: a line of Python that opens FOLDER.
        notes: what else export.json says, by name.
        whole: the files without anything removed, where something was: timed to isolate the mask's effect.
        bound: on differences of logits, over the largest one.
    """

    files: Mapping[str, bytes]
    open: Callable[[Path], Run] | str
    runtime: str
    line: str
    notes: Mapping[str, object] = field(default_factory=dict)
    whole: Mapping[str, bytes] | None = None
    bound: float = 1e-4


Writer = Callable[[nn.Module, Tensor], Exported]
_registered: dict[str, tuple[Writer, tuple[str, ...], str]] = {}


def register_format(name: str, *, packages: Sequence[str] = (), extra: str = "export") -> Callable[[Writer], Writer]:
    """Register a function of a network, in eval mode on the CPU, and of images [b, c, h, w] to trace it with.

    Args:
        packages: modules that it imports.
        extra: of this package, which installs them.
    """

    def add(function: Writer) -> Writer:
        assert name not in _registered, f"format {name} is already registered"
        _registered[name] = (function, tuple(packages), extra)
        return function

    return add


def format_names() -> list[str]:
    return list(_registered)


def writer_of(name: str) -> Writer:
    """
    Raises:
        ConfigError: if there is no such format, or a package that it needs is missing.
    """
    if name not in _registered:
        raise ConfigError(f"there is no format {name!r}: choose one of {', '.join(format_names())}")
    function, packages, extra = _registered[name]
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ConfigError(
            f"the format {name} needs the package {missing[0].replace('_', '-')}: pip install 'timm-jackpot[{extra}]'"
        )
    return function
