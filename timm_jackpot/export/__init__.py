"""Export a jackpot for use without this package, checked and measured. Formats are registered in `formats`."""

from __future__ import annotations

from timm_jackpot.export import formats as formats  # registers them
from timm_jackpot.export.load import load_shrunk
from timm_jackpot.export.registry import Exported, format_names, register_format
from timm_jackpot.export.run import ExportConfig, export_artifact, export_jackpot

__all__ = [
    "ExportConfig",
    "Exported",
    "export_artifact",
    "export_jackpot",
    "format_names",
    "load_shrunk",
    "register_format",
]
