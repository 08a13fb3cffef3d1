"""`BaseRef`: which pre-trained model a mask belongs to (FORMAT.md, "base")."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from timm_jackpot.schema import Document

MAX_CLASSES = 200_000  # timm's largest head has 115,217
MAX_CHANS = 64
MAX_PIXELS = 4096
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scalar = bool | int | float | str

# Scalar arguments of timm models that change how given weights are used. Arguments that name a file, a URL or code are
# left out, and so are widths and depths: an artifact's config must not control what a loader reads, imports or
# allocates.
MODEL_KWARGS = frozenset(
    {
        "aa_layer",
        "act_layer",
        "attn_drop_rate",
        "block_dpr",
        "bn_eps",
        "bn_momentum",
        "class_token",
        "conv_mlp",
        "drop_block_rate",
        "drop_path_rate",
        "drop_rate",
        "dynamic_img_size",
        "fc_norm",
        "global_pool",
        "init_values",
        "no_embed_class",
        "norm_eps",
        "norm_layer",
        "output_stride",
        "pad_type",
        "pos_drop_rate",
        "proj_drop_rate",
        "qk_norm",
        "qkv_bias",
        "replace_stem_pool",
        "zero_init_last",
    }
)


def _is_sound(name: str, value: Scalar) -> bool:
    if name.endswith("_rate"):
        return type(value) in (int, float) and 0 <= float(value) < 1
    if isinstance(value, str):
        return len(value) <= 40 and re.fullmatch("[A-Za-z0-9_]*", value) is not None
    return abs(value) <= 1e6


class BaseRef(Document):
    """Identity of a base. The `digest` decides; everything else says how to rebuild the base."""

    source: Literal["timm", "file", "module"]
    architecture: str = Field(max_length=200, pattern=r"^[A-Za-z0-9_]+$")  # a name, never a path or a URL
    tag: str | None = Field(max_length=200, pattern=r"^[A-Za-z0-9_.\-]+$")
    model_kwargs: dict[str, Scalar]
    hub_id: str | None = Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*/[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    num_classes: int = Field(ge=0, le=MAX_CLASSES)
    in_chans: int = Field(ge=1, le=MAX_CHANS)
    img_size: int | None = Field(ge=1, le=MAX_PIXELS)
    digest: Hex64

    @field_validator("model_kwargs")
    @classmethod
    def _only_known_kwargs(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        unknown = sorted(set(value) - MODEL_KWARGS)
        if unknown:
            raise ValueError(f"model argument {unknown[0][:40]!r} may not be set by an artifact")
        unsound = next((name for name, scalar in value.items() if not _is_sound(name, scalar)), None)
        if unsound:
            raise ValueError(f"model argument {unsound} cannot be {repr(value[unsound])[:40]}")
        return value

    @property
    def name(self) -> str:
        """architecture.tag, as timm writes it."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture
