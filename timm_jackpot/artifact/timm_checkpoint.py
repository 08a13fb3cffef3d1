"""A plain model as timm keeps one in a folder or a Hub repo: model.safetensors and config.json."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from safetensors.torch import save
from timm.models._hub import save_config_for_hf
from torch import nn

from timm_jackpot.artifact.flags import ArtifactFlags
from timm_jackpot.artifact.load import from_pretrained
from timm_jackpot.artifact.save import replace_folder
from timm_jackpot.errors import ArtifactError
from timm_jackpot.schema import Command


def timm_checkpoint(model: nn.Module) -> dict[str, bytes]:
    """The files that `timm.create_model("local-dir:FOLDER")` reads, by name."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config))
        return {"model.safetensors": save(state, metadata={"format": "pt"}), "config.json": config.read_bytes()}


class MergeConfig(ArtifactFlags):
    """Write the network of an artifact as a plain timm checkpoint, zeros for removed weights."""

    command: ClassVar[Command | None] = Command(
        "merge",
        ("my_jackpot merged", "user/name merged", "my_jackpot merged --base-checkpoint resnet20.safetensors"),
    )

    folder: str = Field(json_schema_extra={"positional": True})
    """A new or empty folder."""


def merge_artifact(
    artifact: str | Path,
    folder: str | Path,
    *,
    base_checkpoint: str | Path | None = None,
    revision: str | None = None,
    trust_base: bool = False,
) -> Path:
    """Write an artifact's network as a dense timm checkpoint, zeros for removed weights.

    `timm.create_model(f"local-dir:{folder}", pretrained=True)` opens it without this package, or with
    `import timm_jackpot.networks` where the architecture is one of ours.

    Args:
        artifact: an artifact folder, or the name of a Hub repo.
        folder: a new or empty folder.
        base_checkpoint, revision, trust_base: as in `from_pretrained`.

    Raises:
        ArtifactError: if the folder is not empty or cannot be written, or the base is not a timm model.
        JackpotError: as `from_pretrained`.
    """
    target = Path(folder).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{folder} is not an empty folder: name a new one")
    model = from_pretrained(artifact, base_checkpoint=base_checkpoint, revision=revision, trust_base=trust_base)
    return replace_folder(target, timm_checkpoint(model))
