"""`BaseRef`: which pre-trained model a mask belongs to (FORMAT.md, "base")."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scalar = bool | int | float | str

# Arguments of a timm model that change the arithmetic of given weights, and are plain scalars. Anything that
# names a file, a URL or code stays out, and so do widths and depths: an artefact's config must not be able to
# make a loader read, import or allocate something of its own choosing.
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


class BaseRef(BaseModel):
    """Identity of a base. `digest` decides; everything else says how to build the same one again."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    source: Literal["timm", "file", "module"]
    architecture: str = Field(min_length=1, max_length=200)
    tag: str | None = Field(max_length=200)
    model_kwargs: dict[str, Scalar]
    hub_id: str | None = Field(max_length=200)
    revision: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    num_classes: int = Field(ge=0, le=1_000_000)
    in_chans: int = Field(ge=1, le=64)
    img_size: int | None = Field(ge=1, le=4096)
    digest: Hex64

    @field_validator("model_kwargs")
    @classmethod
    def _only_known_kwargs(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        unknown = sorted(set(value) - MODEL_KWARGS)
        if unknown:
            raise ValueError(f"model argument {unknown[0]!r} is not one that an artefact may set")
        return value

    @property
    def name(self) -> str:
        """architecture.tag, as timm writes it."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture
