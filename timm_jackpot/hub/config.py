"""The settings of a push."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from timm_jackpot.artifact import Encoding
from timm_jackpot.schema import Command, Settings


class PushConfig(Settings):
    """Publish an artifact on the Hugging Face Hub, with its card. Log in first: `hf auth login`."""

    command: ClassVar[Command | None] = Command(
        "push",
        (
            "my_jackpot --repo-id user/name",
            "my_jackpot --repo-id user/ --private",
            "my_jackpot --repo-id user/name --merged    # a dense timm checkpoint too",
        ),
    )

    artifact: str = Field(json_schema_extra={"positional": True})
    """The artifact folder."""
    repo_id: str
    """Hub repo, as user/name; user/ alone uses the default name {base}-jackpot-{sparsity}."""
    private: bool = False
    """Make the repo private if it is created."""
    revision: str | None = None
    """Branch to push to."""
    commit_message: str | None = None
    """Commit message."""
    create_pr: bool = False
    """Open a pull request instead of committing."""
    merged: bool = False
    """Also push the merged timm checkpoint (dense tensors, zeros for removed weights) to the branch "dense"."""
    encoding: Encoding | None = None
    """Mask encoding on the Hub: packed or compact. Default: the folder's own."""
    base_checkpoint: str | None = None
    """The base's .safetensors file, if --merged or --encoding needs one."""
