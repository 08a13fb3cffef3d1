"""Endpoints that write: repositories, branches, uploads, commits."""

from __future__ import annotations

import base64
from typing import Any

from .calls import API, REV, SITE, Call, route
from .messages import HubError, Response, json_response
from .repos import PULL_REQUEST, etag, is_lfs, sha256

GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Response:
    return json_response({"errors": [], "warnings": []})


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> Response:
    user, asked = call.need_user(), call.request.json()
    namespace, repo_type = asked.get("organization") or user, asked.get("type") or "model"
    if namespace != user:
        message = f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}".'
        raise HubError(403, message)
    repo_id = f"{namespace}/{asked['name']}"
    if known := call.hub.repos.get((repo_type, repo_id)):
        message = f"You already created this {repo_type} repo"
        return json_response({"error": message, "url": f"{call.hub.url}/{known.path}"}, 409)
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    call.hub.add_repo(repo_id, {".gitattributes": GIT_ATTRIBUTES}, repo_type, private)
    path = call.hub.repo(repo_id, repo_type).path
    return json_response({"url": f"{call.hub.url}/{path}", "name": repo_id, "id": repo_id})


@route("POST", f"{API}/branch{REV}")
def create_branch(call: Call) -> Response:
    repo, name = call.repo(), call.names["revision"]
    call.need_write(repo)
    if name in repo.refs:
        raise HubError(409, f"Reference already exists: {name}")
    call.names["revision"] = start = (call.request.json() or {}).get("startingPoint") or "main"
    call.commit(repo)
    repo.add_ref(name, start)
    return json_response({"success": True})


@route("POST", f"{API}/preupload{REV}")
def preupload(call: Call) -> Response:
    """Tell for each file how to send it, and the id of the one already there."""
    repo = call.repo()
    call.need_write(repo)
    present = call.commit(repo).files

    def answer(path: str, size: int) -> dict[str, object]:
        mode = "lfs" if is_lfs(path, size) else "regular"
        known = {"oid": etag(path, present[path])} if path in present else {}
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, **known}

    files = call.request.json()["files"]
    return json_response({"files": [answer(file["path"], file["size"]) for file in files]})


@route("POST", rf"{SITE}\.git/info/lfs/objects/batch")
def lfs_batch(call: Call) -> Response:
    repo, asked = call.repo(), call.request.json()
    call.need_user()
    if "ref" in asked:
        call.need_write(repo)

    def answer(oid: str, size: int) -> dict[str, object]:
        if oid in call.hub.objects:
            return {"oid": oid, "size": size}
        upload = {"href": f"{call.hub.url}/lfs/{oid}"}
        verify = {"href": f"{call.hub.url}/{repo.path}.git/info/lfs/verify"}
        return {
            "oid": oid,
            "size": size,
            "authenticated": True,
            "actions": {"upload": upload, "verify": verify},
        }

    objects = [answer(wanted["oid"], wanted["size"]) for wanted in asked["objects"]]
    return json_response({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(call: Call) -> Response:
    """The storage behind the Hub: an address that needs no token."""
    if sha256(call.request.body) != call.names["oid"]:
        raise HubError(400, "The content does not have the announced SHA-256.")
    call.hub.objects[call.names["oid"]] = call.request.body
    return Response()


@route("POST", rf"{SITE}\.git/info/lfs/verify")
def lfs_verify(call: Call) -> Response:
    call.repo()
    asked = call.request.json()
    if len(call.hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise HubError(404, "LFS object not found")
    return json_response({})


@route("POST", f"{API}/commit{REV}")
def commit(call: Call) -> Response:
    repo, lines = call.repo(), call.request.ndjson()
    call.need_write(repo)
    ref, parent = call.names["revision"], call.commit(repo)
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, parent.oid):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(parent.files)
    for line in lines:
        apply_change(call, files, line["key"], line["value"])
    answer: dict[str, Any] = {"success": True, "hookOutput": ""}
    if call.request.flag("create_pr"):
        ref = repo.open_pull_request(ref)
        number = ref.removeprefix(PULL_REQUEST)
        answer["pullRequestUrl"] = f"{call.hub.url}/{repo.path}/discussions/{number}"
    elif ref not in repo.refs:
        raise HubError(400, f"Not a branch: {ref}")
    made = repo.add_commit(files, ref, header["summary"])
    repo.pushes += 1
    return json_response(
        {**answer, "commitOid": made.oid, "commitUrl": f"{call.hub.url}/{repo.path}/commit/{made.oid}"}
    )


def apply_change(call: Call, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
    """Apply one line of a commit to the files of its parent."""
    if key == "file":
        files[value["path"]] = base64.b64decode(value["content"])
    elif key == "lfsFile":
        if value["oid"] not in call.hub.objects:
            raise HubError(400, "Your push was rejected because an LFS pointer pointed to a file that does not exist.")
        files[value["path"]] = call.hub.objects[value["oid"]]
    elif key in ("deletedFile", "deletedFolder"):
        path = value["path"].rstrip("/")
        gone = [name for name in files if name == path or (key == "deletedFolder" and name.startswith(f"{path}/"))]
        if not gone:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del files[name]
    elif key != "header":
        raise HubError(400, f"Unknown key in a commit: {key}")
