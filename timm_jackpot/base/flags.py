"""The flags that choose a base, shared by every verb that takes one."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.base.build import parse_model_kwargs
from timm_jackpot.base.load import Base, load_base
from timm_jackpot.base.ref import MAX_CHANS, MAX_CLASSES, MAX_PIXELS
from timm_jackpot.schema import Settings


class BaseFlags(Settings):
    group: ClassVar[str] = "Model"

    model: str = "digits_resnet"
    """Any pre-trained timm model: resnet50, resnet50.a1_in1k, hf-hub:user/repo, local-dir:folder."""
    model_kwargs: tuple[str, ...] = ()
    """More arguments for the timm model, as key=value."""
    base_checkpoint: str | None = None
    """A .safetensors file with the base's weights, used instead of the published ones."""
    base_revision: str | None = None
    """Branch, tag or commit of the base's Hub repo."""
    num_classes: int | None = Field(default=None, ge=1, le=MAX_CLASSES)
    """Number of classes of a new head; a base with this number of classes keeps its head."""
    in_chans: int | None = Field(default=None, ge=1, le=MAX_CHANS)
    """Input channels, if they differ from the base's."""
    img_size: int | None = Field(default=None, ge=1, le=MAX_PIXELS)
    """Image size in pixels, if it differs from the base's."""

    def load(self) -> Base:
        """Load the base that these flags choose."""
        return load_base(
            self.model,
            model_kwargs=parse_model_kwargs(self.model_kwargs),
            base_checkpoint=self.base_checkpoint,
            num_classes=self.num_classes,
            in_chans=self.in_chans,
            img_size=self.img_size,
            revision=self.base_revision,
        )
