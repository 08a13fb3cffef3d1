"""Export a jackpot to other runtimes, checked and measured. A format is a function decorated with `register_format`."""

from __future__ import annotations

from timm_jackpot.export import checkpoints as checkpoints  # registers formats
from timm_jackpot.export import runtimes as runtimes
from timm_jackpot.export.load import load_exported
from timm_jackpot.export.registry import Exported, format_names, register_format
from timm_jackpot.export.run import ExportConfig, export_artifact, export_jackpot

__all__ = [
    "ExportConfig",
    "Exported",
    "export_artifact",
    "export_jackpot",
    "format_names",
    "load_exported",
    "register_format",
]
