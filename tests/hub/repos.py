"""What the test Hub stores: repositories with their refs and commits, and who may do what with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LFS_SUFFIXES = (".safetensors", ".bin", ".npz", ".gz", ".zip", ".pt", ".pth", ".parquet")
LFS_SIZE = 10 * 1024 * 1024
PULL_REQUEST = "refs/pr/"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    """The id git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps this file in LFS (never an empty one)."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


def etag(path: str, data: bytes) -> str:
    """The id by which clients know the content: SHA-256 for LFS files, git blob id for the others."""
    return sha256(data) if is_lfs(path, len(data)) else git_oid(data)


def lfs_pointer(data: bytes) -> bytes:
    """What git itself stores in place of an LFS file."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n"
    return text.encode()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: Mapping[str, bytes]


@dataclass
class Repo:
    """One repository: ``refs`` maps "main", "dev", "refs/pr/1"... to its commits, oldest first."""

    repo_id: str
    repo_type: str = "model"
    private: bool = False
    gated: bool = False
    refs: dict[str, list[Commit]] = field(default_factory=lambda: {"main": []})
    readers: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    pushes: int = 0
    """Commits received over HTTP (those made by the test through Python do not count)."""

    def __post_init__(self) -> None:
        self.writers.add(self.repo_id.split("/")[0])

    @property
    def path(self) -> str:
        """The repository's path on the site: "ns/name" or "datasets/ns/name"."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    # -- access ---------------------------------------------------------------------------------

    def may_see(self, user: str | None) -> bool:
        """A gated repository is visible to all: only its files are kept back."""
        return not self.private or user in self.readers | self.writers

    def may_download(self, user: str | None) -> bool:
        return not (self.private or self.gated) or user in self.readers | self.writers

    def may_write(self, user: str | None) -> bool:
        return user in self.writers

    # -- history --------------------------------------------------------------------------------

    def find(self, revision: str) -> Commit | None:
        """The commit a branch, a pull request ref or a full commit id stands for."""
        history = self.history(revision)
        return history[-1] if history else None

    def history(self, revision: str) -> list[Commit]:
        """Commits up to the revision, oldest first; empty when there is no such revision."""
        if revision in self.refs:
            return list(self.refs[revision])
        for commits in self.refs.values():
            for position, commit in enumerate(commits, start=1):
                if commit.oid == revision:
                    return commits[:position]
        return []

    def add_commit(self, files: Mapping[str, bytes], ref: str = "main", title: str = "Commit") -> Commit:
        """Make ``files`` the whole content of a new commit at the end of ``ref``."""
        history = self.refs[ref]
        commit = Commit(self._commit_id(files, history[-1].oid if history else ""), title, dict(files))
        history.append(commit)
        return commit

    def add_ref(self, name: str, start: str = "main") -> None:
        self.refs[name] = self.history(start)

    def open_pull_request(self, start: str) -> str:
        """Start a new ``refs/pr/N`` at a revision; its name."""
        number = 1 + sum(name.startswith(PULL_REQUEST) for name in self.refs)
        name = f"{PULL_REQUEST}{number}"
        self.add_ref(name, start)
        return name

    def _commit_id(self, files: Mapping[str, bytes], parent: str) -> str:
        """Unique within the repository, and the same from one run to the next."""
        known = len({commit.oid for commits in self.refs.values() for commit in commits})
        tree = "\n".join(f"{path} {git_oid(data)}" for path, data in sorted(files.items()))
        text = f"{self.path}\n{known}\n{parent}\n{tree}"
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def folders(files: Mapping[str, bytes]) -> Iterator[str]:
    """Every folder that holds a file, sorted."""
    found = set()
    for path in files:
        parts = path.split("/")[:-1]
        found.update("/".join(parts[: depth + 1]) for depth in range(len(parts)))
    yield from sorted(found)


def file_entry(path: str, data: bytes) -> dict[str, object]:
    """A file as the ``tree`` and ``paths-info`` endpoints describe it."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if is_lfs(path, len(data)):
        pointer = lfs_pointer(data)
        entry["oid"] = git_oid(pointer)
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer)}
    return entry


def folder_entry(path: str) -> dict[str, object]:
    return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}


def sibling(path: str, data: bytes, details: bool) -> dict[str, object]:
    """A file as the ``model_info`` endpoint describes it."""
    if not details:
        return {"rfilename": path}
    entry = file_entry(path, data)
    found = {"rfilename": path, "size": len(data), "blobId": entry["oid"]}
    if isinstance(lfs := entry.get("lfs"), dict):
        found["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return found
