"""timm_jackpot: binary masks over frozen pre-trained timm models; searched, saved, shared and loaded."""

from __future__ import annotations

import importlib
from typing import Any

# Registering our architectures is a side effect that `timm.create_model("cifar_resnet20")` relies on.
from timm_jackpot.base import cifar_models as cifar_models
from timm_jackpot.base import digits_model as digits_model

__version__ = "0.1.0"

_EXPORTS = {
    "from_pretrained": "timm_jackpot.artifact",
    "save_pretrained": "timm_jackpot.artifact",
    "transform_of": "timm_jackpot.artifact",
    "push_to_hub": "timm_jackpot.hub",
    "load_base": "timm_jackpot.base",
    "base_from_module": "timm_jackpot.base",
    "maskable_weights": "timm_jackpot.base",
    "attach": "timm_jackpot.adapter",
    "detach": "timm_jackpot.adapter",
    "adapter_of": "timm_jackpot.adapter",
    "merge": "timm_jackpot.adapter",
    "zero_fractions": "timm_jackpot.adapter",
    "MaskSet": "timm_jackpot.masks",
    "mask_overlap": "timm_jackpot.masks",
    "layer_overlaps": "timm_jackpot.masks",
    "JackpotModel": "timm_jackpot.serving",
    "SearchConfig": "timm_jackpot.search",
    "search_jackpot": "timm_jackpot.search",
    "audit_jackpot": "timm_jackpot.audit",
    "AuditConfig": "timm_jackpot.audit",
    "AuditReport": "timm_jackpot.audit",
    "JackpotError": "timm_jackpot.errors",
}

__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Exports load on first use: `import timm_jackpot` costs little more than `import timm`."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
