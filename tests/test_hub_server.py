"""The test Hub answers the genuine client as the real Hub would, as far as our tests rely on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.client import ask
from hub.repos import git_oid, sha256
from hub.server import TestHub
from hub.weights import timm_resnet18

MASK = bytes(range(256)) * 400


@pytest.fixture
def hub() -> Iterator[TestHub]:
    with TestHub() as running:
        yield running


@pytest.fixture
def home() -> Iterator[Path]:
    """A fresh HF_HOME, removed at once: the weights in it are large."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# -- the client uploads -----------------------------------------------------------------------------


def test_uploads(hub: TestHub, home: Path) -> None:
    (home / "mask.safetensors").write_bytes(MASK)
    code = f"""
        repo, mask = "alice/masks", {str(home / "mask.safetensors")!r}
        operations = lambda: [Add("mask.safetensors", mask), Add("other.safetensors", b"other"),
                              Add("config.json", b"{{}}"), Add("README.md", b"---\\nlicense: mit\\n---\\n")]
        answers["user"] = api.whoami()["name"]
        answers["url"] = api.create_repo(repo, private=True)
        answers["again"] = api.create_repo(repo, private=True, exist_ok=True).repo_id
        answers["conflict"] = attempt(lambda: api.create_repo(repo))
        answers["foreign"] = attempt(lambda: api.create_repo("bob/new"))
        first = api.create_commit(repo, operations(), commit_message="First")
        second = api.create_commit(repo, operations(), commit_message="Same")
        answers["oids"] = [first.oid, second.oid]
        answers["commit_url"] = first.commit_url
        changed = [Add("config.json", b"[]"), Delete("other.safetensors")]
        third = api.create_commit(repo, changed, commit_message="Change", parent_commit=first.oid)
        answers["third"] = third.oid
        answers["stale"] = attempt(lambda: api.create_commit(
            repo, [Add("late", b"late")], commit_message="Late", parent_commit=first.oid))
        answers["gone"] = attempt(lambda: api.delete_file("other.safetensors", repo))
        api.create_repo("alice/results", repo_type="dataset")
        api.upload_folder(repo_id="alice/results", folder_path={str(home)!r}, repo_type="dataset",
                          allow_patterns="*.safetensors", path_in_repo="runs")
    """
    answers = ask(hub, home, code, token=hub.add_user("alice"))

    assert answers["user"] == "alice"
    assert answers["url"] == f"{hub.url}/alice/masks"
    assert answers["again"] == "alice/masks"
    assert answers["conflict"] == ["HfHubHTTPError", 409]
    assert answers["foreign"] == ["HfHubHTTPError", 403]
    assert hub.repo("alice/masks").private

    initial, first, third = hub.commits("alice/masks")
    assert answers["oids"] == [first, first], "an identical commit is no commit"
    assert answers["third"] == third
    assert answers["commit_url"] == f"{hub.url}/alice/masks/commit/{first}"
    assert hub.pushes("alice/masks") == 2
    assert list(hub.files("alice/masks", initial)) == [".gitattributes"]
    assert hub.files("alice/masks", first)["mask.safetensors"] == MASK
    assert hub.files("alice/masks", first)["other.safetensors"] == b"other"
    assert set(hub.files("alice/masks")) == {".gitattributes", "mask.safetensors", "config.json", "README.md"}
    assert hub.files("alice/masks")["config.json"] == b"[]"
    assert answers["stale"] == ["HfHubHTTPError", 412]
    assert answers["gone"] == ["RemoteEntryNotFoundError", 404]
    assert hub.files("alice/results", repo_type="dataset")["runs/mask.safetensors"] == MASK

    sent = hub.requests_to("/lfs/", "PUT")
    assert {request.body for request in sent} == {MASK, b"other"}
    assert len(sent) == 2, "content already there is not sent again"
    assert not any(request.has_token for request in sent)
    assert {request.authorization for request in hub.requests_to("/commit/", "POST")} == {"Bearer hf_alice"}
    assert len(hub.requests_to("/api/validate-yaml")) == 2


def test_branches_and_pull_requests(hub: TestHub, home: Path) -> None:
    hub.add_repo("alice/masks", {"config.json": b"{}"})
    first = hub.commits("alice/masks")[0]
    hub.commit("alice/masks", {"config.json": b"[]"})
    hub.add_repo("bob/masks", {"config.json": b"{}"})
    code = f"""
        def commit(repo, **how):
            return api.create_commit(repo, [Add("mask.safetensors", b"mask")], commit_message="Mask", **how)

        repo, first = "alice/masks", {first!r}
        api.create_branch(repo, branch="sparse/90", revision=first)
        answers["conflict"] = attempt(lambda: api.create_branch(repo, branch="sparse/90"))
        api.create_branch(repo, branch="sparse/90", exist_ok=True)
        answers["lost"] = attempt(lambda: api.create_branch(repo, branch="x", revision="0" * 40))
        answers["branch"] = commit(repo, revision="sparse/90").oid
        pull = commit("bob/masks", create_pr=True)
        answers["pull"] = [pull.oid, pull.pr_revision, pull.pr_num, pull.pr_url]
        answers["refused"] = attempt(lambda: commit("bob/masks"))
        answers["anonymous"] = attempt(lambda: commit("bob/masks", token=False))
        found = api.list_repo_refs("bob/masks", include_pull_requests=True)
        found = found.branches + found.pull_requests
        answers["refs"] = [[ref.name, ref.ref, ref.target_commit] for ref in found]
    """
    answers = ask(hub, home, code, token="hf_alice")

    assert answers["conflict"] == ["HfHubHTTPError", 409]
    assert answers["lost"] == ["RevisionNotFoundError", 404]
    assert hub.commits("alice/masks", "sparse/90") == [first, answers["branch"]]
    assert hub.files("alice/masks", "sparse/90") == {"config.json": b"{}", "mask.safetensors": b"mask"}
    assert hub.files("alice/masks") == {"config.json": b"[]"}
    oid, revision, number, url = answers["pull"]
    assert (revision, number, url) == ("refs/pr/1", 1, f"{hub.url}/bob/masks/discussions/1")
    (main,) = hub.commits("bob/masks")
    assert hub.commits("bob/masks", "refs/pr/1") == [main, oid]
    assert hub.files("bob/masks", "refs/pr/1") == {"config.json": b"{}", "mask.safetensors": b"mask"}
    assert answers["refused"] == ["HfHubHTTPError", 403]
    assert answers["anonymous"] == ["RepositoryNotFoundError", 401]
    assert answers["refs"] == [["main", "refs/heads/main", main], ["pr/1", "refs/pr/1", oid]]


# -- the client downloads ---------------------------------------------------------------------------


def test_downloads(hub: TestHub, home: Path) -> None:
    first = hub.add_repo("bob/masks", {"config.json": b"one", "deep/er/mask.safetensors": MASK})
    hub.add_repo("bob/masks", {"table.csv": b"1,2"}, repo_type="dataset")
    hub.commit("bob/masks", {"config.json": b"dev"}, branch="sparse/90")
    second = hub.commit("bob/masks", {"config.json": b"two", "deep/er/mask.safetensors": None})
    hub.repo("bob/masks").open_pull_request(first)
    code = f"""
        repo, first = "bob/masks", {first!r}
        answers["main"] = content(repo, "config.json")
        answers["branch"] = content(repo, "config.json", revision="sparse/90")
        answers["commit"] = content(repo, "deep/er/mask.safetensors", revision=first)
        answers["pull"] = content(repo, "config.json", revision="refs/pr/1")
        answers["dataset"] = content(repo, "table.csv", repo_type="dataset")
        answers["no_revision"] = content(repo, "config.json", revision="nowhere")
        answers["no_commit"] = content(repo, "config.json", revision="0" * 40)
        answers["no_file"] = content(repo, "none.json")
        answers["no_repo"] = content("bob/none", "config.json")
        answers["snapshot"] = snapshot_download(repo)
        answers["old_snapshot"] = snapshot_download(repo, revision=first)
        answers["no_snapshot"] = attempt(lambda: snapshot_download(repo, revision="nowhere"))
    """
    answers = ask(hub, home, code)

    assert answers["main"] == "two"
    assert answers["branch"] == "dev"
    assert answers["commit"].encode("latin-1") == MASK
    assert answers["pull"] == "one"
    assert answers["dataset"] == "1,2"
    assert answers["no_revision"] == answers["no_commit"] == ["RevisionNotFoundError", 404]
    assert answers["no_snapshot"] == ["RevisionNotFoundError", 404]
    assert answers["no_file"] == ["RemoteEntryNotFoundError", 404]
    assert answers["no_repo"] == ["RepositoryNotFoundError", 401]
    assert Path(answers["snapshot"]).name == second
    assert [path.name for path in Path(answers["snapshot"]).iterdir()] == ["config.json"]
    assert (Path(answers["old_snapshot"]) / "deep/er/mask.safetensors").read_bytes() == MASK
    assert not any(request.has_token for request in hub.requests)


def test_listings(hub: TestHub, home: Path) -> None:
    first = hub.add_repo("bob/masks", {"config.json": b"one", "deep/er/mask.safetensors": MASK})
    second = hub.commit("bob/masks", {"config.json": b"two"})
    hub.add_repo("bob/masks", {"table.csv": b"1,2"}, repo_type="dataset")
    code = f"""
        repo, first = "bob/masks", {first!r}
        info = api.model_info(repo, files_metadata=True, revision=first)
        answers["info"] = [info.id, info.sha, info.private, info.gated]
        answers["siblings"] = [
            [file.rfilename, file.size, file.blob_id, file.lfs and file.lfs.sha256] for file in info.siblings]
        answers["head"] = api.repo_info(repo).sha
        answers["dataset_files"] = api.list_repo_files(repo, repo_type="dataset")
        tree = lambda *path, **how: [
            entry.path for entry in api.list_repo_tree(repo, *path, revision=first, **how)]
        answers["top"], answers["deep"] = tree(), tree("deep", recursive=True)
        answers["paths"] = [
            [type(entry).__name__, entry.path]
            for entry in api.get_paths_info(repo, ["config.json", "deep", "none"], revision=first)]
        answers["exists"] = [api.file_exists(repo, "config.json"), api.file_exists(repo, "none"),
                             api.repo_exists(repo), api.repo_exists("bob/none"),
                             api.revision_exists(repo, "x")]
    """
    answers = ask(hub, home, code)

    assert answers["info"] == ["bob/masks", first, False, False]
    small, large = answers["siblings"]
    assert small == ["config.json", 3, git_oid(b"one"), None]
    assert large[:2] == ["deep/er/mask.safetensors", len(MASK)]
    assert large[3] == sha256(MASK)
    assert answers["head"] == second
    assert answers["dataset_files"] == ["table.csv"]
    assert answers["top"] == ["deep", "config.json"]
    assert answers["deep"] == ["deep/er", "deep/er/mask.safetensors"]
    assert answers["paths"] == [["RepoFile", "config.json"], ["RepoFolder", "deep"]]
    assert answers["exists"] == [True, False, True, False, False]


def test_access(hub: TestHub, home: Path) -> None:
    hub.add_repo("bob/private", {"config.json": b"private"}, private=True)
    hub.add_repo("bob/gated", {"config.json": b"gated"}, gated=True)
    hub.add_repo("bob/public", {"config.json": b"public"})
    hub.allow("bob/private", "alice")
    hub.allow("bob/gated", "alice")
    hub.add_user("carol")
    code = """
        import os
        for user in ("hf_bob", "hf_alice", "hf_carol", "hf_unknown", False):
            cache = f"{os.environ['HF_HOME']}/{user}"
            answers[str(user)] = [
                content(f"bob/{repo}", "config.json", token=user, cache_dir=cache)
                for repo in ("private", "gated", "public")]
        answers["info"] = api.model_info("bob/gated", token=False).gated
        answers["hidden"] = attempt(lambda: api.model_info("bob/private", token=False))
        answers["snapshots"] = [attempt(lambda: snapshot_download(f"bob/{repo}", token="hf_carol"))
                                for repo in ("private", "gated")]
    """
    answers = ask(hub, home, code)

    assert answers["hf_bob"] == answers["hf_alice"] == ["private", "gated", "public"]
    missing, gated = ["RepositoryNotFoundError", 404], ["GatedRepoError", 403]
    assert answers["hf_carol"] == [missing, gated, "public"]
    assert answers["snapshots"] == [missing, gated]
    assert answers["hf_unknown"] == [["HfHubHTTPError", 401]] * 3
    assert answers["False"] == [["RepositoryNotFoundError", 401], ["GatedRepoError", 401], "public"]
    assert answers["info"] == "auto"
    assert answers["hidden"] == ["RepositoryNotFoundError", 401]


def test_redirects_large_files_to_a_host_that_gets_no_token(home: Path) -> None:
    with TestHub(cdn=True) as hub:
        hub.add_repo("bob/private", {"mask.safetensors": MASK, "config.json": b"{}"}, private=True)
        answers = ask(hub, home, 'answers["path"] = snapshot_download("bob/private")', token="hf_bob")
        assert (Path(answers["path"]) / "mask.safetensors").read_bytes() == MASK
        (fetched,) = hub.requests_to("/cdn/")
        assert not fetched.has_token
        assert all(request.token == "hf_bob" for request in hub.requests_to("/resolve/"))


# -- faults -----------------------------------------------------------------------------------------


def test_faults(hub: TestHub, home: Path) -> None:
    names = ("head.txt", "get.txt", "cut.txt", "corrupt.bin", "slow.txt")
    files = {name: name.encode() + MASK for name in names}
    hub.add_repo("bob/masks", files)
    hub.fail("head.txt", "500", method="HEAD")
    hub.fail("get.txt", "500", method="GET")
    hub.fail("cut.txt", "cut")
    hub.fail("corrupt.bin", "corrupt")
    hub.fail("slow.txt", "slow", method="GET", seconds=5)
    code = f"""
        for name in {names!r}:
            answers[name] = content("bob/masks", name)
        answers["get again"] = content("bob/masks", "get.txt")
        answers["corrupt again"] = content("bob/masks", "corrupt.bin")
    """
    answers = ask(hub, home, code, HF_HUB_DOWNLOAD_TIMEOUT="1")

    whole = {name: data.decode("latin-1") for name, data in files.items()}
    assert answers["head.txt"] == whole["head.txt"], "asked again"
    assert answers["get.txt"] == ["HfHubHTTPError", 500], "not asked again"
    assert answers["get again"] == whole["get.txt"]
    assert answers["cut.txt"] == whole["cut.txt"], "asked again"
    assert answers["slow.txt"] == whole["slow.txt"], "asked again after the client's timeout"
    assert answers["corrupt.bin"] == answers["corrupt again"] == whole["corrupt.bin"][:-1] + "\0"
    assert len(hub.requests_to("corrupt.bin", "GET")) == 1, "the client compares no hashes"


def test_faults_of_an_upload(hub: TestHub, home: Path) -> None:
    hub.add_repo("bob/masks", {})
    hub.fail("/preupload/", "503")
    hub.fail("/commit/", "cut")
    code = """
        answers["commit"] = attempt(lambda: api.create_commit(
            "bob/masks", [Add("new.txt", b"new")], commit_message="New"))
    """
    assert ask(hub, home, code, token="hf_bob") == {"commit": ["RemoteProtocolError", None]}
    assert hub.files("bob/masks") == {"new.txt": b"new"}, "committed, though the client saw an error"
    assert hub.pushes("bob/masks") == 1
    assert [request.status for request in hub.requests_to("/preupload/")] == [503, 200]


def test_resumes_a_large_download(hub: TestHub, home: Path) -> None:
    """The client keeps what came before the cut in pieces of 10 MB."""
    large = MASK * 240
    hub.add_repo("bob/large", {"model.safetensors": large})
    hub.fail("model.safetensors", "cut")
    answers = ask(hub, home, 'answers["path"] = hf_hub_download("bob/large", "model.safetensors")')
    assert Path(answers["path"]).read_bytes() == large
    requests = hub.requests_to("model.safetensors", "GET")
    assert [request.headers.get("Range") for request in requests] == [None, f"bytes={10 * 2**20}-"]
    assert [request.status for request in requests] == [200, 206]


def test_down(hub: TestHub, home: Path) -> None:
    """Without the Hub the client hands out what it has, however old, and says nothing."""
    old = hub.add_repo("bob/masks", {"config.json": b"old"})
    hub.add_repo("bob/other", {"config.json": b"other"})
    fetched = ask(hub, home, 'answers["path"] = snapshot_download("bob/masks")')
    hub.commit("bob/masks", {"config.json": b"new"})
    hub.down = True
    code = """
        answers["path"] = snapshot_download("bob/masks")
        answers["file"] = content("bob/masks", "config.json")
        answers["other"] = attempt(lambda: snapshot_download("bob/other"))
    """
    stale = ask(hub, home, code)
    assert stale == {"path": fetched["path"], "file": "old", "other": ["LocalEntryNotFoundError", None]}
    assert Path(stale["path"]).name == old
    assert {request.status for request in hub.requests[-3:]} == {503}
    hub.heal()
    assert ask(hub, home, 'answers["file"] = content("bob/masks", "config.json")') == {"file": "new"}


# -- timm -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_timm(hub: TestHub, home: Path) -> None:
    hub.add_repo("timm/resnet18.a1_in1k", timm_resnet18())
    hub.add_repo("bob/few", timm_resnet18(num_classes=3, seed=1))
    code = """
        import safetensors.torch, timm, torch

        def same(model, repo, skip=()):
            saved = safetensors.torch.load_file(hf_hub_download(repo, "model.safetensors"))
            state = model.state_dict()
            assert state.keys() == saved.keys()
            return all(torch.equal(state[name], saved[name]) for name in state if name not in skip)

        name = "resnet18.a1_in1k"
        model = timm.create_model(name, pretrained=True)
        answers["same"] = same(model, f"timm/{name}")
        model = timm.create_model(name, pretrained=True, num_classes=5)
        answers["same body"] = same(model, f"timm/{name}", ("fc.weight", "fc.bias"))
        model = timm.create_model("hf-hub:bob/few", pretrained=True)
        answers["few"] = [model.num_classes, same(model, "bob/few")]
    """
    answers = ask(hub, home, code)
    assert answers == {"same": True, "same body": True, "few": [3, True]}
    assert len(hub.requests_to("timm/resnet18.a1_in1k/resolve/main/model.safetensors", "GET")) == 1
