"""Single files from the Hugging Face Hub, each failure turned into one sentence."""

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
    """Download the first of `candidates` that `repo_id` has; returns its path and the commit it is from.

    Args:
        force_download: fetch again what the local cache already holds: the client does not notice a body that
            arrived with wrong bytes, and hands it out from then on.
        max_bytes: a larger file is refused before any of it is fetched.

    Raises:
        HubError: for anything that kept the file from arriving.
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
                        "was not fetched"
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
        # The client keeps files under snapshots/<commit>/: the commit that really arrived.
        return Path(path), Path(path).parent.name
    raise HubError(f"{repo_id} has no {' or '.join(candidates)}: only safetensors are read, never pickles")


def explain_hub_error(
    error: Exception, repo_id: str, revision: str | None = None, *, uploading: bool = False
) -> HubError:
    """One sentence for whatever the Hub client raised; never repeats its text, which may quote headers."""
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
        text = f"{repo_id!r} is no name of a Hub repo: expected user/name"
    elif status == 401:
        text = f"{repo_id}: the Hub does not know your token: log in anew with `hf auth login`"
    elif status == 403 and uploading:
        owner = repo_id.partition("/")[0]
        text = f"your token may not write to {owner}/: log in with one that may (`hf auth login`), or name another repo"
    elif status == 403:
        text = f"your token may not read {repo_id}: log in with one that may (`hf auth login`)"
    elif uploading and isinstance(error, OfflineModeIsEnabled):
        text = f"{repo_id} could not be uploaded: the Hub is switched off (HF_HUB_OFFLINE)"
    elif isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        text = (
            f"{repo_id} could not be fetched: the Hub cannot be reached (or is switched off) and it is not in the "
            "local cache; go online once, or give a local file"
        )
    else:
        done = "uploaded to" if uploading else "fetched from"
        text = f"{repo_id} could not be {done} the Hub ({type(error).__name__}): try again later"
    return HubError(text)
