"""Download single files from the Hugging Face Hub, with one sentence for every failure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from timm_jackpot.errors import HubError


def download(
    repo_id: str,
    candidates: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    max_bytes: int | None = None,
) -> tuple[Path, str]:
    """Download the first of `candidates` that `repo_id` has; returns its path and commit.

    Args:
        force_download: download again even if the file is in the local cache; the client does not notice corrupt
            downloads and keeps returning them.
        max_bytes: a larger file is refused before the download.

    Raises:
        HubError: if the file cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for filename in candidates:
        fetch = partial(
            hf_hub_download,
            repo_id,
            filename,
            revision=revision or None,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        try:
            if max_bytes is not None:
                there = fetch(dry_run=True)
                if there.will_download and (there.file_size or 0) > max_bytes:
                    raise HubError(
                        f"{filename} of {repo_id} has {there.file_size} bytes, more than the {max_bytes} expected: it "
                        "was not downloaded"
                    )
            path = fetch()
        except HubError:
            raise
        except LocalEntryNotFoundError as error:
            raise explain_hub_error(error, repo_id, revision) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise explain_hub_error(error, repo_id, revision) from error
        # The client stores files under snapshots/<commit>/, so this is the commit that was downloaded.
        return Path(path), Path(path).parent.name
    raise HubError(f"{repo_id} has no {' or '.join(candidates)}: only safetensors are read, never pickles")


def explain_hub_error(
    error: Exception, repo_id: str, revision: str | None = None, *, uploading: bool = False
) -> HubError:
    """Explain an error of the Hub client in one sentence, without its text, which may contain headers."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        text = f"{repo_id} is gated: accept its terms on the Hub and log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        text = f"{repo_id} is not on the Hub, or is private: check the name, or log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        text = f"{repo_id} has no revision {revision!r}"
    elif isinstance(error, HFValidationError):
        text = f"{repo_id!r} is not the name of a Hub repo: expected user/name"
    elif status == 401:
        text = f"{repo_id}: the Hub does not accept your token: log in again with `hf auth login`"
    elif status == 403 and uploading:
        owner = repo_id.partition("/")[0]
        text = f"your token may not write to {owner}/: log in with one that may (`hf auth login`), or use another repo"
    elif status == 403:
        text = f"your token may not read {repo_id}: log in with one that may (`hf auth login`)"
    elif uploading and isinstance(error, OfflineModeIsEnabled):
        text = f"{repo_id} could not be uploaded: offline mode is on (HF_HUB_OFFLINE)"
    elif isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        text = (
            f"{repo_id} could not be fetched: the Hub cannot be reached (or offline mode is on) and it is not in "
            "the local cache; go online once, or give a local file"
        )
    else:
        done = "uploaded to" if uploading else "fetched from"
        text = f"{repo_id} could not be {done} the Hub ({type(error).__name__}): try again later"
    return HubError(text)
