"""Find an artifact: a local folder, or a Hub repo that is downloaded into the cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm_jackpot.artifact.read import read_artifact, read_config, run_check
from timm_jackpot.artifact.schema import CONFIG, MAX_CONFIG_BYTES, Config
from timm_jackpot.base.hub_files import download
from timm_jackpot.errors import ArtifactError


def locate_artifact(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    check: Callable[[Config], object] | None = None,
) -> Path:
    """The folder itself, or the Hub client's cache folder after downloading every file that the config lists.

    Args:
        check: as in `read_artifact`; called before any file but the config is downloaded.

    Raises:
        ArtifactError: if it is neither a folder nor the name of a Hub repo, or the repo holds no valid artifact.
        BaseError, BaseMismatchError: as `read_artifact`.
        HubError: if the repo or one of its files cannot be downloaded, or is larger than the config says.
    """
    folder = Path(name)
    if os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        return folder
    if isinstance(name, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ArtifactError(f"{name} is neither an artifact folder nor the name of a Hub repo (user/name)")
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    try:
        return _fetch(name, revision, hub, check)
    except ArtifactError:
        if local_files_only:
            raise
        # A corrupted download stays in the cache: download once more.
        return _fetch(name, revision, {**hub, "force_download": True}, check)


def _fetch(repo_id: str, revision: str | None, hub: dict[str, Any], check: Callable[[Config], object] | None) -> Path:
    path, commit = download(repo_id, [CONFIG], revision=revision, max_bytes=MAX_CONFIG_BYTES, **hub)
    config = read_config(path.parent)
    run_check(config, check)
    for file, entry in config.files.items():
        download(repo_id, [file], revision=commit, max_bytes=entry.bytes, **hub)
    read_artifact(path.parent, check=check)
    return path.parent
