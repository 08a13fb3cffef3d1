"""Single files from the Hugging Face Hub, each failure turned into one sentence."""

from __future__ import annotations

from collections.abc import Sequence
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
) -> tuple[Path, str]:
    """Download the first of `candidates` that `repo_id` has; returns its path and the commit it is from.

    Args:
        force_download: fetch again what the local cache already holds: the client does not notice a body that
            arrived with wrong bytes, and hands it out from then on.

    Raises:
        HubError: for anything that kept the file from arriving.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for filename in candidates:
        try:
            path = hf_hub_download(
                repo_id,
                filename,
                revision=revision or None,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        except LocalEntryNotFoundError as error:
            raise explain_hub_error(error, repo_id, revision) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise explain_hub_error(error, repo_id, revision) from error
        # The client keeps files under snapshots/<commit>/: the commit that really arrived.
        return Path(path), Path(path).parent.name
    raise HubError(f"{repo_id} has no {' or '.join(candidates)}: only safetensors are read, never pickles")


def explain_hub_error(error: Exception, repo_id: str, revision: str | None = None) -> HubError:
    """One sentence for whatever the Hub client raised; never repeats its text, which may quote headers."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        text = f"{repo_id} is gated: accept its terms on the Hub and log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        text = f"{repo_id} is not on the Hub, or is private: check the name, or log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        text = f"{repo_id} has no revision {revision!r}"
    elif isinstance(error, HFValidationError):
        text = f"{repo_id!r} is no name of a Hub repo: expected user/name"
    elif isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        text = (
            f"{repo_id} could not be fetched: the Hub cannot be reached (or is switched off) and it is not in the "
            "local cache; go online once, or give a local file"
        )
    else:
        text = f"{repo_id} could not be fetched from the Hub ({type(error).__name__}): try again later"
    return HubError(text)
