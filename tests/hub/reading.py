"""Endpoints that read: repositories, their files, who is asking."""

from __future__ import annotations

import re
from typing import Any

from .calls import API, REV, SITE, Call, route
from .messages import HubError, Request, Response, json_response
from .repos import PULL_REQUEST, etag, file_entry, folder_entry, folders, is_lfs, sibling

DATE = "2024-01-01T00:00:00.000Z"


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Response:
    user = call.need_user()
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return json_response({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})


@route("GET", API)
@route("GET", f"{API}/revision{REV}")
def repo_info(call: Call) -> Response:
    repo = call.repo()
    commit = call.commit(repo)
    details = call.request.flag("blobs")
    info: dict[str, Any] = {
        "id": repo.repo_id,
        "author": repo.repo_id.split("/")[0],
        "sha": commit.oid,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": DATE,
        "lastModified": DATE,
        "siblings": [sibling(path, data, details) for path, data in sorted(commit.files.items())],
    }
    return json_response(info)


@route("GET", f"{API}/tree{REV}(?:/(?P<folder>.+))?")
def tree(call: Call) -> Response:
    files = call.commit(call.repo()).files
    prefix = f"{call.names['folder'].rstrip('/')}/" if call.names.get("folder") else ""
    entries = [folder_entry(path) for path in folders(files)] + [
        file_entry(path, data) for path, data in sorted(files.items())
    ]
    below = [entry for entry in entries if str(entry["path"]).startswith(prefix)]
    if prefix and not below:
        raise HubError(404, f"{prefix} does not exist", "EntryNotFound")
    if not call.request.flag("recursive"):
        below = [entry for entry in below if "/" not in str(entry["path"])[len(prefix) :]]
    return json_response(below)


@route("POST", f"{API}/paths-info{REV}")
def paths_info(call: Call) -> Response:
    files = call.commit(call.repo()).files
    known_folders = set(folders(files))
    asked = call.request.form().get("paths", [])
    found = [file_entry(path, files[path]) for path in asked if path in files]
    return json_response(found + [folder_entry(path) for path in asked if path in known_folders])


@route("GET", f"{API}/refs")
def refs(call: Call) -> Response:
    repo = call.repo()

    def described(pull_requests: bool) -> list[dict[str, str]]:
        return [
            {
                "name": name.removeprefix("refs/"),
                "ref": name if pull_requests else f"refs/heads/{name}",
                "targetCommit": commits[-1].oid,
            }
            for name, commits in repo.refs.items()
            if name.startswith(PULL_REQUEST) == pull_requests
        ]

    found = {"branches": described(False), "converts": [], "tags": []}
    if call.request.flag("include_prs"):
        found["pullRequests"] = described(True)
    return json_response(found)


@route("GET", f"{SITE}/resolve{REV}/(?P<path>.+)")
def resolve(call: Call) -> Response:
    repo = call.repo()
    call.need_download(repo)
    commit, path = call.commit(repo), call.names["path"]
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.files:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    data = commit.files[path]
    known = etag(path, data)
    headers["ETag"] = f'"{known}"'
    if is_lfs(path, len(data)):
        headers |= {"X-Linked-Etag": f'"{known}"', "X-Linked-Size": str(len(data))}
        if call.hub.cdn:
            name = path.rsplit("/", 1)[-1]
            return Response(302, headers={**headers, "Location": f"{call.hub.cdn_url}/cdn/{known}/{name}"})
    return served(call.request, data, headers)


@route("GET", "/cdn/(?P<oid>[0-9a-f]{64})/[^/]+")
def cdn(call: Call) -> Response:
    """Where the real Hub's LFS files come from: another host, which must see no token."""
    return served(call.request, call.hub.objects[call.names["oid"]], {"ETag": f'"{call.names["oid"]}"'})


def served(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """The whole file, or the part that a Range header asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if asked is None:
        return Response(200, data, headers)
    start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if start > end:
        return Response(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Response(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})
