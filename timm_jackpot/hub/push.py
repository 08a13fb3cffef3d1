"""Publish an artifact: listed files only, copied to a fresh folder, in one commit."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from timm_jackpot.artifact import (
    Artifact,
    Encoding,
    from_pretrained,
    open_artifact,
    read_artifact,
    recode,
    timm_checkpoint,
)
from timm_jackpot.artifact.schema import CONFIG, EXTRAS, MASKS
from timm_jackpot.base.hub_files import explain_hub_error
from timm_jackpot.errors import ArtifactError, ConfigError, HubError
from timm_jackpot.evidence import export_files
from timm_jackpot.hub.card import default_repo_name, render_card

# Files that may be uploaded; symlinks and all other files are not.
_OPTIONAL = ("record.jsonl", "recipe.yaml", "audit.json")
_PICTURE = re.compile(r"[A-Za-z0-9_-]{1,60}\.png")
_DENSE_BRANCH = "dense"


def push_to_hub(
    artifact: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    merged: bool = False,
    encoding: Encoding | None = None,
    base_checkpoint: str | Path | None = None,
    token: str | bool | None = None,
) -> dict[str, Any]:
    """Push an artifact folder to the Hub, with a new card.

    Args:
        artifact: the folder; it is read and verified first.
        repo_id: `user/name`; a name ending in "/" gets the default `{base}-jackpot-{sparsity}`.
        private: create the repo as private.
        revision: branch to push to; created if it does not exist.
        create_pr: open a pull request instead of committing to the branch.
        merged: also push a dense timm checkpoint, with removed weights set to zero, to the branch `dense`, for users
            without this package (`timm.create_model("hf-hub:user/name@dense", pretrained=True)`).
        encoding: of the pushed masks. Default: as in the folder.
        base_checkpoint: as in `from_pretrained`; needed for `merged` and `encoding` if the base is a file.

    Returns:
        `{"repo_id", "revision", "commit", "changed", "url", "files"}`; `changed` is False if the Hub already
        had the same content.

    Raises:
        ArtifactError: if the folder is not a valid artifact.
        BaseMismatchError: if the base is needed and is not the one the masks were searched on.
        HubError: if the Hub refuses the request or cannot be reached.
    """
    found = read_artifact(artifact)
    if repo_id.endswith("/"):
        repo_id += default_repo_name(found)
    if repo_id.count("/") != 1:
        raise ConfigError(f"--repo-id {repo_id!r} is not the name of a Hub repo: expected user/name")
    _check_login(token)
    with tempfile.TemporaryDirectory() as temporary:
        if encoding not in (None, found.config.encoding):
            found = _recoded(found, encoding, base_checkpoint, Path(temporary))
        model = from_pretrained(artifact, base_checkpoint=base_checkpoint) if merged else None
        try:
            return _push(found, repo_id, model, private, revision, commit_message, create_pr, token)
        except (HubError, ArtifactError):
            raise
        except Exception as error:
            raise explain_hub_error(error, repo_id, revision, uploading=True) from error


def _check_login(token: str | bool | None) -> None:
    """
    Raises:
        HubError: without a token.
    """
    from huggingface_hub import get_token

    if not (isinstance(token, str) or (token is not False and get_token())):
        raise HubError("not logged in: run `hf auth login` once, with a token that has write access, then push again")


def _recoded(artifact: Artifact, encoding: Encoding, base_checkpoint: str | Path | None, folder: Path) -> Artifact:
    """Copy the artifact to `folder` with its masks re-encoded; verify them against the base."""
    _, base = open_artifact(artifact.folder, base_checkpoint=base_checkpoint)
    _copy(artifact.folder, publishable(artifact), folder)
    for name, content in recode(artifact, base, encoding).items():
        (folder / name).write_bytes(content)
    found = read_artifact(folder)
    found.masks_on(base)
    return found


def _push(
    artifact: Artifact,
    repo_id: str,
    model: Any,
    private: bool,
    revision: str | None,
    message: str | None,
    create_pr: bool,
    token: str | bool | None,
) -> dict[str, Any]:
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="timm-jackpot")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        names = _collect(artifact, folder, repo_id, _base_license(artifact, api))
        text = message or f"{default_repo_name(artifact)} (timm-jackpot)"
        info = _commit(api, repo_id, folder, names, revision, text, create_pr)
        if model is not None:
            _commit_merged(api, repo_id, model, folder / "merged", text)
    return {"repo_id": repo_id, "revision": revision or "main", "files": sorted(names), **info}


def _collect(artifact: Artifact, folder: Path, repo_id: str, base_license: str | None) -> list[str]:
    """Copy what may be published into `folder`; returns the names."""
    names = publishable(artifact)
    _copy(artifact.folder, names, folder)
    shown = tuple(name for name in names if name.endswith(".png"))
    card = render_card(artifact, repo_id=repo_id, base_license=base_license, pictures=shown)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return [*names, "README.md"]


def publishable(artifact: Artifact) -> list[str]:
    """Names of the existing files that may be uploaded."""
    source = artifact.folder
    pictures = sorted(p for p in source.glob("plots/*.png") if _PICTURE.fullmatch(p.name))
    reports = [source / name for name in export_files(artifact)]
    wanted = [source / name for name in (CONFIG, MASKS, *_OPTIONAL)] + reports + pictures
    if artifact.extras:
        wanted.append(source / EXTRAS)
    return [
        path.relative_to(source).as_posix()
        for path in wanted
        if path.is_file() and not path.is_symlink() and not path.parent.is_symlink()
    ]


def _copy(source: Path, names: list[str], target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())


def _commit(
    api: Any, repo_id: str, folder: Path, names: list[str], revision: str | None, message: str, create_pr: bool
) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd

    head = None if create_pr else api.model_info(repo_id, revision=revision).sha
    # The client compares contents first: if nothing changed, it makes no commit.
    info = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, str(folder / name)) for name in names],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
    )
    return {"commit": info.oid, "changed": info.oid != head, "url": info.pr_url or info.commit_url}


def _commit_merged(api: Any, repo_id: str, model: Any, folder: Path, message: str) -> None:
    """Push the plain timm checkpoint as the only content of its branch."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    folder.mkdir()
    for name, content in timm_checkpoint(model).items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text(
        f"---\nlibrary_name: timm\ntags: [timm, sparsity]\n---\n\nThe jackpot on `main`, merged into a "
        f"dense timm checkpoint: its removed weights are zero.\n\n"
        f'`timm.create_model("hf-hub:{repo_id}@{_DENSE_BRANCH}", pretrained=True)`\n',
        encoding="utf-8",
    )
    names = sorted(path.name for path in folder.iterdir())
    api.create_branch(repo_id, branch=_DENSE_BRANCH, exist_ok=True)
    there = set(api.list_repo_files(repo_id, revision=_DENSE_BRANCH))
    stale = there - set(names) - {".gitattributes"}
    operations = [CommitOperationAdd(name, str(folder / name)) for name in names]
    operations += [CommitOperationDelete(name) for name in sorted(stale)]
    api.create_commit(repo_id, operations, commit_message=f"{message}, merged", revision=_DENSE_BRANCH)


def _base_license(artifact: Artifact, api: Any) -> str | None:
    """The license stated in the base's own repo; None if there is none or the repo cannot be read."""
    if artifact.config.base.hub_id is None:
        return None
    try:
        card = api.model_info(artifact.config.base.hub_id).card_data
    except Exception:  # a base that was deleted must not prevent publishing its masks
        return None
    name = card.get("license") if card is not None else None
    return name if isinstance(name, str) else None
