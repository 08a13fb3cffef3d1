"""Publish and load against the loopback Hub, spoken to by the genuine client in processes of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub.client import hub_environment, run_python
from hub.server import TestHub
from PIL import Image
from safetensors.torch import save

BASE = "timm/test_resnet.r160_in1k"
REPO = "alice/my-jackpot"
LARGE = ("masks.safetensors", "extras.safetensors", "config.json")


@pytest.fixture(scope="module")
def hub() -> Iterator[TestHub]:
    with TestHub() as running:
        torch.manual_seed(0)
        running.add_repo(BASE, _base_files("apache-2.0"))
        running.add_user("alice")
        yield running


def _base_files(license_name: str) -> dict[str, bytes]:
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    return {
        "model.safetensors": save({name: tensor.contiguous() for name, tensor in state.items()}),
        "config.json": json.dumps({"architecture": "test_resnet"}).encode(),
        "README.md": f"---\nlicense: {license_name}\n---\n".encode(),
    }


def verb(hub: TestHub, home: Path, *words: str, cwd: Path, token: str | None = None, **env: str):
    environment = hub_environment(hub, home, token) | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, hub: TestHub, home: Path) -> Path:
    """A search in a base from the Hub, with a new head, and the artifact pushed."""
    folder = tmp_path_factory.mktemp("work")
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label in ("cat", "dog", "emu"):
            (folder / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / label / f"{i}.png")
    search = verb(
        hub, home, "timm_jackpot.search", "--model", "test_resnet", "--num-classes", "3", "--data-dir", "images",
        "--steps", "2", "-b", "8", "-j", "0", "--sparsity", "0.8", "--output", "jackpot", cwd=folder,
    )  # fmt: skip
    assert search.returncode == 0, search.stderr
    (folder / "jackpot" / ".env").write_text("SECRET=1")
    (folder / "jackpot" / "token").write_text("hf_secret")
    (folder / "jackpot" / "plots" / "away.png").symlink_to("/etc/hostname")
    return folder


@pytest.fixture(scope="module")
def pushed(hub: TestHub, home: Path, work: Path) -> dict:
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", REPO, "--merged"]
    done = verb(hub, home, *words, cwd=work, token="hf_alice")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_one_commit_of_exactly_the_listed_files(hub: TestHub, work: Path, pushed: dict) -> None:
    files = hub.files(REPO)
    expected = {"config.json", "masks.safetensors", "extras.safetensors", "README.md", "record.jsonl", "recipe.yaml"}
    assert set(files) - {".gitattributes", "plots/search.png", "plots/mask.png"} == expected
    assert files["masks.safetensors"] == (work / "jackpot" / "masks.safetensors").read_bytes()
    assert pushed["changed"] is True
    assert hub.pushes(REPO) == 2  # main, and the merged checkpoint on its own branch


@pytest.mark.slow
def test_pushing_the_same_again_uploads_nothing(hub: TestHub, home: Path, work: Path, pushed: dict) -> None:
    before = hub.pushes(REPO)
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", REPO]
    done = verb(hub, home, *words, cwd=work, token="hf_alice")
    assert json.loads(done.stdout.splitlines()[-1])["changed"] is False
    assert hub.pushes(REPO) == before


def test_the_card_inherits_the_license_and_names_base_and_results(hub: TestHub, work: Path, pushed: dict) -> None:
    card = hub.files(REPO)["README.md"].decode()
    assert "license: apache-2.0" in card
    assert f"base_model: {BASE}" in card
    assert "base_model_relation: adapter" in card
    assert "library_name: timm-jackpot" in card
    assert f'from_pretrained("{REPO}")' in card
    assert "has not been audited" in card
    assert re.search(r"\| dense base with a trained head \| \d", card)  # a new head: a linear probe
    assert str(work) not in card


def test_a_fresh_cache_loads_the_very_same_model(hub: TestHub, work: Path, pushed: dict, tmp_path: Path) -> None:
    code = f"""
        import torch, timm, json, sys
        from timm_jackpot import JackpotModel, from_pretrained, transform_of
        local = from_pretrained({str(work / "jackpot")!r})
        there = from_pretrained({REPO!r})
        merged = timm.create_model("hf-hub:{REPO}@dense", pretrained=True).eval()
        at = from_pretrained({REPO!r}, revision={pushed["commit"]!r}, local_files_only=True)
        many = JackpotModel.from_pretrained({str(work / "jackpot")!r}, adapter_name="local")
        many.load_adapter({REPO!r}, "there")
        many.set_adapter("there")
        x = torch.randn(2, 3, 160, 160)
        with torch.no_grad():
            expected = local(x)
            print(json.dumps([bool(torch.equal(m(x), expected)) for m in (there, merged, at, many)]))
        zeros = sum(int((p == 0).sum()) for p in there.parameters()) / sum(p.numel() for p in there.parameters())
        from PIL import Image
        print(json.dumps([zeros > 0.5, list(transform_of(there)(Image.new("RGB", (300, 200))).shape)]))
    """
    done = run_python(code, hub_environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    same, shape = map(json.loads, done.stdout.splitlines()[-2:])
    assert same == [True, True, True, True]
    assert shape == [True, [3, 160, 160]]


@pytest.mark.slow
def test_a_push_may_convert_to_compact_masks(hub: TestHub, home: Path, work: Path, pushed: dict) -> None:
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", "alice/compact", "--encoding", "compact"]
    done = verb(hub, home, *words, cwd=work, token="hf_alice")
    assert done.returncode == 0, done.stderr
    there, before = hub.files("alice/compact"), hub.files(REPO)
    assert set(there) == set(before)
    assert len(there["masks.safetensors"]) < 0.5 * len(before["masks.safetensors"])
    assert "coded on the ranks of the base's weights (`masks.safetensors`)" in there["README.md"].decode()
    assert "SECRET" not in str(there)
    code = f"""
        import torch
        from timm_jackpot import from_pretrained
        one, other = from_pretrained({REPO!r}).state_dict(), from_pretrained("alice/compact").state_dict()
        print(all(torch.equal(one[name], other[name]) for name in one))
    """
    loaded = run_python(code, hub_environment(hub, home))
    assert loaded.stdout.splitlines()[-1] == "True", loaded.stderr


@pytest.fixture
def ask_errors(hub: TestHub, tmp_path: Path):
    """Run from_pretrained calls in one process; the class and the sentence of each one's error."""

    def ask(calls: dict[str, str], token: str | None = None, home: Path = tmp_path, **env: str) -> dict[str, list[str]]:
        program = ["import json", "from timm_jackpot import from_pretrained, load_base", "answers = {}"]
        for name, call in calls.items():
            program += [
                "try:",
                f"    {call}",
                f"    answers[{name!r}] = ['none', '']",
                "except BaseException as e:",
                f"    answers[{name!r}] = [type(e).__name__, str(e)]",
            ]
        program.append("print(json.dumps(answers))")
        done = run_python("\n".join(program), hub_environment(hub, home, token) | env)
        assert done.returncode == 0, done.stderr
        if token:
            assert token not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.mark.slow
def test_what_cannot_be_had_is_one_sentence_of_the_right_class(hub: TestHub, pushed: dict, ask_errors) -> None:
    good = {k: v for k, v in hub.files(REPO).items() if k != ".gitattributes"}
    hub.add_repo("alice/private", good, private=True)
    hub.add_repo("alice/gated", good, gated=True)
    hub.add_repo("alice/incomplete", {k: v for k, v in good.items() if k != "masks.safetensors"})
    hub.add_repo("alice/foreign", {"README.md": b"no jackpot"})
    answers = ask_errors(
        {
            "unknown": "from_pretrained('alice/nothing')",
            "private": "from_pretrained('alice/private')",
            "gated": "from_pretrained('alice/gated')",
            "revision": f"from_pretrained({REPO!r}, revision='nowhere')",
            "incomplete": "from_pretrained('alice/incomplete')",
            "foreign": "from_pretrained('alice/foreign')",
            "offline": "from_pretrained('alice/nothing', local_files_only=True)",
            "badname": "from_pretrained('alice/bad name')",
            "base": "load_base('resnet18.a1_in1k')",
        }
    )
    words = {
        "unknown": "is not on the Hub, or is private",
        "private": "is not on the Hub, or is private",
        "gated": "is gated",
        "revision": "has no revision 'nowhere'",
        "incomplete": "has no masks.safetensors",
        "foreign": "has no config.json",
        "offline": "not in the local cache",
        "badname": "no name of a Hub repo",
        "base": "is not on the Hub",
    }
    for name, sentence in words.items():
        assert answers[name][0] == "HubError", (name, answers[name])
        assert sentence in answers[name][1], (name, answers[name])
        assert "\n" not in answers[name][1]


@pytest.mark.slow
def test_a_private_jackpot_loads_with_its_token_which_appears_nowhere(
    hub: TestHub, pushed, ask_errors, tmp_path
) -> None:
    good = {k: v for k, v in hub.files(REPO).items() if k != ".gitattributes"}
    hub.add_repo("bob/private", good, private=True)
    hub.add_user("bob")
    token = "hf_bob"
    calls = {"right": "from_pretrained('bob/private')", "argument": "from_pretrained('alice/none', token='hf_bob')"}
    answers = ask_errors(calls, token=token)
    assert answers["right"] == ["none", ""]
    assert answers["argument"][0] == "HubError"
    for path in tmp_path.rglob("*"):
        if path.is_file() and "jackpot" in path.name:
            assert token.encode() not in path.read_bytes()


@pytest.mark.slow
def test_corrupted_bytes_are_noticed_and_fetched_again(hub: TestHub, pushed: dict, ask_errors) -> None:
    hub.fail(f"{REPO}/resolve/{pushed['commit']}/masks.safetensors", "corrupt", times=1, method="GET")
    answers = ask_errors({"mended": f"from_pretrained({REPO!r})"})
    hub.heal()
    assert answers["mended"] == ["none", ""]


@pytest.mark.slow
def test_bytes_that_stay_corrupted_are_refused(hub: TestHub, pushed: dict, ask_errors) -> None:
    hub.fail("masks.safetensors", "corrupt", times=None, method="GET")
    answers = ask_errors({"damaged": f"from_pretrained({REPO!r})"})
    hub.heal()
    assert answers["damaged"][0] == "ArtifactError"
    assert "is damaged" in answers["damaged"][1]


def test_a_swapped_base_is_refused_naming_expected_and_found(hub: TestHub, pushed: dict, ask_errors) -> None:
    hub.fail(f"{BASE}/resolve", "corrupt", times=None, method="GET")
    answers = ask_errors({"swapped": f"from_pretrained({REPO!r})"})
    hub.heal()
    assert answers["swapped"][0] in ("BaseMismatchError", "BaseError")
    assert "test_resnet" in answers["swapped"][1]


@pytest.mark.slow
def test_a_base_that_changed_on_its_main_branch_does_not_matter(hub: TestHub, pushed: dict, ask_errors) -> None:
    torch.manual_seed(1)
    hub.commit(BASE, _base_files("apache-2.0"))
    answers = ask_errors({"pinned": f"from_pretrained({REPO!r})"})
    assert answers["pinned"] == ["none", ""]


@pytest.mark.slow
def test_a_base_outside_timm_needs_the_callers_word(hub: TestHub, pushed: dict, ask_errors) -> None:
    files = {k: v for k, v in hub.files(REPO).items() if k != ".gitattributes"}
    config = json.loads(files["config.json"])
    config["base"]["hub_id"] = "mallory/model"
    hub.add_repo("alice/other", {**files, "config.json": json.dumps(config).encode()})
    asked_before = len(hub.requests_to("mallory"))
    answers = ask_errors(
        {"no": "from_pretrained('alice/other')", "yes": "from_pretrained('alice/other', trust_base=True)"}
    )
    assert answers["no"][0] == "ArtifactError"
    assert "trust_base=True" in answers["no"][1]
    assert answers["yes"][0] == "HubError"
    assert len(hub.requests_to("mallory")) > asked_before


@pytest.mark.slow
def test_push_refuses_what_is_no_artifact_or_no_repo(hub: TestHub, home: Path, work: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (["--artifact", "images", "--repo-id", REPO], "has no config.json"),
        (["--artifact", "jackpot", "--repo-id", "nobody"], "expected user/name"),
        (["--artifact", "jackpot", "--repo-id", "bob/forbidden"], "your token may not write to bob/"),
    ):
        done = verb(hub, home, "timm_jackpot.push", *words, cwd=work, token="hf_alice")
        assert done.returncode == 2, (words, done.stderr)
        assert sentence in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert "hf_alice" not in done.stderr + done.stdout


def test_a_push_without_a_token_says_what_to_do_and_asks_nobody(hub: TestHub, work: Path, tmp_path: Path) -> None:
    before = len(hub.requests)
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", "alice/never", "--merged"]
    done = verb(hub, tmp_path, *words, cwd=work)
    assert done.returncode == 2
    assert done.stderr.startswith("error: not logged in: run `hf auth login`")
    assert len(hub.requests) == before


@pytest.mark.slow
def test_a_push_that_fails_is_told_from_a_fetch(hub: TestHub, home: Path, work: Path, pushed: dict) -> None:
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", REPO]
    stale = verb(hub, home, *words, cwd=work, token="hf_nobody_that_is_known")
    hub.fail("/api/repos/create", "500", times=None)
    broken = verb(hub, home, *words, cwd=work, token="hf_alice")
    hub.heal()
    off = verb(hub, home, *words, cwd=work, token="hf_alice", HF_HUB_OFFLINE="1")
    assert "does not accept your token: log in again" in stale.stderr
    assert "could not be uploaded to the Hub" in broken.stderr
    assert "could not be uploaded: offline mode is on" in off.stderr
    for done in (stale, broken, off):
        assert done.returncode == 2
        assert "fetched" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_file_larger_than_declared_is_refused_before_it_is_fetched(hub: TestHub, pushed: dict, ask_errors) -> None:
    files = {path: data for path, data in hub.files(REPO).items() if path != ".gitattributes"}
    repos = {name: f"alice/large-{name.partition('.')[0]}" for name in LARGE}
    for name, repo in repos.items():
        hub.add_repo(repo, {**files, name: files[name] + b" " * 5_000_000})
    answers = ask_errors({name: f"from_pretrained({repo!r})" for name, repo in repos.items()})
    for name, repo in repos.items():
        assert answers[name][0] == "HubError"
        assert f"{name} of {repo} has {len(files[name]) + 5_000_000} bytes" in answers[name][1]
        assert hub.requests_to(f"{repo}/resolve", "HEAD")
        fetched = [request.path.rpartition("/")[2] for request in hub.requests_to(f"{repo}/resolve", "GET")]
        assert name not in fetched
        assert len(set(fetched)) == len(fetched)  # nothing twice


@pytest.mark.slow
def test_push_to_a_branch_and_as_a_pull_request(hub: TestHub, home: Path, work: Path, pushed: dict) -> None:
    words = ["timm_jackpot.push", "--artifact", "jackpot", "--repo-id", "alice/", "--revision", "v2"]
    done = verb(hub, home, *words, cwd=work, token="hf_alice")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["repo_id"] == "alice/test_resnet.r160_in1k-jackpot-0.8"
    assert "masks.safetensors" in hub.files(result["repo_id"], "v2")
    assert "masks.safetensors" not in hub.files(result["repo_id"], "main")
    done = verb(hub, home, *words[:4], result["repo_id"], "--create-pr", cwd=work, token="hf_alice")
    assert done.returncode == 0, done.stderr
    assert "masks.safetensors" in hub.files(result["repo_id"], "refs/pr/1")


@pytest.mark.slow
def test_a_hub_that_is_down_is_one_sentence(hub: TestHub, pushed: dict, ask_errors) -> None:
    hub.down = True  # the client tries again for about 20 seconds
    try:
        answers = ask_errors({"down": f"from_pretrained({REPO!r})"})
    finally:
        hub.heal()
    assert answers["down"][0] == "HubError"
    assert "\n" not in answers["down"][1]


@pytest.mark.slow
def test_a_base_named_by_its_repo_is_loaded_at_one_commit(hub: TestHub, tmp_path: Path) -> None:
    code = f"""
        import json
        from timm_jackpot import load_base
        base = load_base("hf-hub:{BASE}")
        print(json.dumps([base.ref.source, base.ref.architecture, base.ref.hub_id, base.ref.revision]))
    """
    done = run_python(code, hub_environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["timm", "test_resnet", BASE, hub.commits(BASE, "main")[-1]]
