"""`python -m timm_jackpot.push --artifact FOLDER --repo-id user/name`"""

from __future__ import annotations

from timm_jackpot.artifact import Encoding
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.hub import push_to_hub
from timm_jackpot.schema import Settings


class PushConfig(Settings):
    """Publish an artifact on the Hugging Face Hub, with its card. Log in first: `hf auth login`."""

    artifact: str
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


def main() -> dict[str, object]:
    config = parse(PushConfig)
    return push_to_hub(**config.model_dump())


if __name__ == "__main__":
    run_verb(main)
