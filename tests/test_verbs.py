"""The commands as people type them: exit codes, streams, the last line."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.search import SearchConfig
from timm_jackpot.search import __main__ as search_main

VERBS = ["search", "evaluate", "inspect", "pretrain", "finetune", "sweep", "push", "bench"]


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`python -m timm_jackpot.…` in an empty folder and in this interpreter: exit code, stdout, stderr."""

    def run_here(verb: str, *words: str, cwd: Path = tmp_path) -> tuple[int, str, str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [verb, *words])
        for name in (f"timm_jackpot.{verb}", f"timm_jackpot.{verb}.__main__"):
            if not hasattr(sys.modules.get(name), "__path__"):  # a module, which other tests may have imported
                monkeypatch.delitem(sys.modules, name, raising=False)
        try:
            runpy.run_module(f"timm_jackpot.{verb}", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return (code, *capsys.readouterr())

    return run_here


def last_json(done: subprocess.CompletedProcess[str] | tuple[int, str, str]) -> dict:
    code, out, err = done if isinstance(done, tuple) else (done.returncode, done.stdout, done.stderr)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("verbs")
    done = run("accelerate.commands.launch", "-m", "timm_jackpot.search", "--steps", "20", "--output", "a", cwd=folder)
    return folder, done


def test_search_prints_a_table_the_two_lines_that_load_it_and_json(searched) -> None:
    folder, done = searched
    result = last_json(done)
    expected = (
        "model dataset sparsity sparsity_all_parameters dense_top1 magnitude_top1 magnitude_recalibrated_top1 "
        "jackpot_top1 steps seconds seed artifact artifact_bytes mask_bytes"
    )
    assert set(expected.split()) <= set(result)
    for row in ("dense", "magnitude one-shot", "magnitude, norm statistics re-estimated", "jackpot"):
        assert f"\n{row}" in done.stdout
    lines = done.stdout.splitlines()
    assert lines[-3:-1] == ["from timm_jackpot import from_pretrained", "model = from_pretrained('a')"]
    assert result["mask_bytes"] == (folder / "a" / "masks.safetensors").stat().st_size
    sizes = [(folder / "a" / n).stat().st_size for n in ("config.json", "masks.safetensors", "extras.safetensors")]
    assert result["artifact_bytes"] == sum(sizes)


def test_progress_is_on_stderr_in_plain_lines(searched) -> None:
    _, done = searched
    assert "search: step 20/20, 00:00 left, loss" in done.stderr
    assert "\r" not in done.stderr
    assert "search: step" not in done.stdout


def test_no_path_of_this_machine_is_in_the_artifact(searched) -> None:
    folder, _ = searched
    for path in (p for p in (folder / "a").rglob("*") if p.is_file()):
        assert str(folder).encode() not in path.read_bytes(), path.name


def test_evaluate_agrees_with_search(searched, typed) -> None:
    folder, done = searched
    result = last_json(typed("evaluate", "a", "--artifact", "a", cwd=folder))
    assert result["top1"] == last_json(done)["jackpot_top1"]
    assert result["top5"] >= result["top1"]
    assert result["n"] == 599
    dense = last_json(typed("evaluate", "--model", "digits_resnet", cwd=folder))
    assert dense["top1"] == last_json(done)["dense_top1"]


def test_inspect_prints_the_table_or_json_alone(searched, typed) -> None:
    folder, done = searched
    table = typed("inspect", "a", cwd=folder)
    report = last_json(table)
    assert "layer1.0.conv1.weight" in table[1]
    assert "fc.weight" in table[1]
    assert report["sparsity"] == last_json(done)["sparsity"]
    _, alone, _ = typed("inspect", "--artifact", "a", "--json", cwd=folder)
    assert len(alone.splitlines()) == 1
    assert json.loads(alone) == report


BAD = [
    (["search", "--sparsity", "1.2"], "is not a number in [0, 1)"),
    (["search", "--model", "resnet5o"], "did you mean resnet50"),
    (["search", "--nonsense"], "unknown flag --nonsense: --help-all lists all flags"),
    (["search", "--sparsty", "0.5"], "unknown flag --sparsty: did you mean --sparsity?"),
    (["search", "stray"], "unexpected argument 'stray': --help shows what the command takes"),
    (["search", "--method=snip", "--method", "searhc"], "there is no method 'searhc': did you mean search?"),
    (["inspect", "a", "--artifact", "b"], "artifact a and --artifact b differ: give one of them"),
    (["search", "--recipe", "nonsense"], "there is no recipe 'nonsense'"),
    (["inspect"], "ARTIFACT is required"),
    (["audit", "--artifact", "user/name"], "with --output FOLDER"),
    (["evaluate", "--artifact", "a", "--num-classes", "5"], "--num-classes goes with --model"),
    (["search", "--lr", "inf"], "--lr inf"),
    (["evaluate", "--artifact", "nowhere"], "neither an artifact folder nor"),
    (["pretrain", "--model", "nonsense", "--output", "x"], "unknown architecture 'nonsense'"),
    (["sweep", "--output", "x"], "--recipe is required"),
    (["transfer", "--output", "x"], "--recipe is required"),
    (["sweep", "--recipe", "digits", "--output", "x", "--grid", "lr={"], "--grid lr={ is not valid YAML"),
    (["search", "--model", "x" * 100_000], "unknown model"),
    (["search", "--recipe", "x" * 300], "there is no recipe"),
    (["search", "--model", "two\nlines"], "unknown model"),
    (["search", "--model-kwargs", "act_layer=nothing"], "digits_resnet"),
    (["search", "--model-kwargs", "output_stride=7"], "digits_resnet"),
    (["pretrain", "--model", "digits_resnet", "--model-kwargs", "output_stride=7", "--output", "x"], "these arguments"),
]
ABSURD = [
    ("search", "--steps", "1" + "0" * 400),
    ("search", "--epochs", "1e300"),
    ("search", "--lr", "5e-324"),
    ("search", "--lr", "1e300"),
    ("search", "--temperature", "1e-300"),
    ("search", "--batch-size", "9223372036854775808"),
    ("search", "--num-classes", "1000000000000"),
    ("search", "--in-chans", "1000000000000"),
    ("search", "--img-size", "1000000000000"),
    ("search", "--crop-padding", "1000000"),
    ("search", "--start-scale", "1e300"),
    ("search", "--recalibrate-batches", "9" * 30),
    ("search", "--workers", "1000000"),
    ("search", "--weight-decay", "1e300"),
    ("pretrain", "--num-classes", "1000000000000"),
    ("pretrain", "--mixup", "1e300"),
    ("finetune", "--lr", "1e300"),
    ("bench", "--img-size", "1000000000000"),
    ("bench", "--pairs", "1000000000000"),
    ("audit", "--seeds", "1000000000000"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_exit_code_two(typed, tmp_path: Path, words: list[str], sentence: str) -> None:
    code, out, err = typed(*words)
    assert code == 2
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


NEEDED = {"pretrain": ["--output", "x"], "finetune": ["--artifact", "a", "--output", "x"], "audit": ["--artifact", "a"]}


@pytest.mark.parametrize(("verb", "flag", "value"), ABSURD)
def test_a_number_near_the_end_of_its_type_is_refused_by_its_flag(typed, verb: str, flag: str, value: str) -> None:
    code, out, err = typed(verb, flag, value, *NEEDED.get(verb, []))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {flag} {value[:100]}: ")
    assert err.count("\n") == 1


NAMING = [
    ("inspect", "--artifact"),
    ("evaluate", "--artifact"),
    ("evaluate", "--data-dir"),
    ("evaluate", "--base-checkpoint"),
    ("evaluate", "--model"),
    ("search", "--recipe"),
    ("finetune", "--output", "x", "--artifact"),
    ("audit", "--artifact"),
    ("audit", "--output", "x", "--artifact"),
    ("push", "--repo-id", "user/name", "--artifact"),
    ("sweep", "--output", "x", "--recipe"),
]


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "local-dir:" + "x" * 300], ids=lambda name: name[:12])
@pytest.mark.parametrize("words", NAMING, ids=" ".join)
def test_what_no_file_can_be_called_is_not_there(typed, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    verb, *flags = words
    code, out, err = typed(verb, *flags, name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def unforeseen(*_: object, **__: object) -> None:
    raise ZeroDivisionError("of\ntwo lines")


@pytest.mark.parametrize("words", [["--lr", "0.1"], ["--lr", "0.1", "--traceback"]])
def test_what_nobody_foresaw_is_one_sentence_and_exit_code_one(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search", *words])
    monkeypatch.setattr(search_main, "search_jackpot", unforeseen)
    with pytest.raises(SystemExit) as stopped:
        run_verb(search_main.main)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (1, "")
    last = err.splitlines()[-1]
    sentence = "ZeroDivisionError: of two lines; run again with --traceback to see where, and please report it"
    assert last == f"unexpected error: {sentence}"
    assert ("Traceback" in err) == ("--traceback" in words)
    assert ("in unforeseen" in err) == ("--traceback" in words)
    assert "--traceback" in words or err.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_no_fault_of_ours(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_much() -> dict[str, object]:
        raise error

    monkeypatch.setattr(sys, "argv", ["search"])
    with pytest.raises(SystemExit) as stopped:
        run_verb(too_much)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory: lower --batch-size")


def test_a_process_of_its_own_says_no_more(tmp_path: Path) -> None:
    done = run("timm_jackpot.search", "--model", "resnet50", cwd=tmp_path, HF_HOME=str(tmp_path.parent / "empty_cache"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "not in the local cache" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_describes_every_flag(verb: str, typed) -> None:
    code, out, _ = typed(verb, "--help-all")
    assert code == 0
    assert out.startswith("usage:")
    flags = re.split(r"\n  (?=-)", out)[1:]
    assert len(flags) > 2
    for flag in flags:
        name, text = re.split(r"\s{2,}", flag, maxsplit=1)
        assert len(text.split()) > 1, f"{name} says nothing"


def test_flags_beat_recipe_beat_preset_beat_default(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("preset: paper\nlr: 0.3\nsparsity: 0.8\nsteps: 10\n")
    words = ["--recipe", str(recipe), "--sparsity", "0.95", "-b", "7", "--model-kwargs", "a=1", "b=2"]
    config = parse(SearchConfig, argv=words)
    assert (config.start, config.lr, config.sparsity, config.batch_size) == ("two-level", 0.3, "0.95", 7)
    assert (config.stratify, SearchConfig().stratify) == (False, True)
    assert parse(SearchConfig, argv=[*words, "--stratify"]).stratify
    assert config.model_kwargs == ("a=1", "b=2")
    assert config.temperature == 8.0
    assert parse(SearchConfig, argv=[*words, "--epochs", "2"]).steps is None
    words += ["--preset", "default"]
    assert parse(SearchConfig, argv=words).start == "proportional"


def test_a_list_may_be_given_flag_by_flag() -> None:
    assert parse(SearchConfig, argv=["--model-kwargs", "a=1", "--model-kwargs", "b=2"]).model_kwargs == ("a=1", "b=2")


def test_an_unknown_setting_in_a_recipe_is_named(typed, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("sparsty: 0.8\n")
    code, _, err = typed("search", "--recipe", "r.yaml")
    assert code == 2
    assert "unknown setting sparsty: did you mean sparsity?" in err


@pytest.mark.multiprocess
def test_two_processes_agree_on_one_mask(typed, tmp_path: Path) -> None:
    words = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "timm_jackpot.search", "--steps", "2"]
    done = run(*words, "--batch-size", "32", "--output", "two", cwd=tmp_path, ACCELERATE_USE_CPU="true")
    result = last_json(done)
    assert result["processes"] == 2
    hashes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"model"')]
    assert len(hashes) == 1, "only the main process prints its result"
    record = [json.loads(line) for line in (tmp_path / "two" / "record.jsonl").read_text().splitlines()]
    checked = next(event for event in record if event["kind"] == "mask_hashes")
    assert checked["by_rank"] == [result["mask_hash"]] * 2
    assert last_json(typed("evaluate", "--artifact", "two"))["top1"] == result["jackpot_top1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_is_worth_what_the_readme_says(tmp_path: Path, seed: int) -> None:
    command = ["accelerate.commands.launch", "-m", "timm_jackpot.search", "--seed", str(seed)]
    result = last_json(run(*command, cwd=tmp_path, OMP_NUM_THREADS="2"))
    assert result["dense_top1"] >= 97
    assert result["magnitude_top1"] <= result["dense_top1"] - 20
    assert result["jackpot_top1"] >= result["dense_top1"] - 1.0


@pytest.mark.slow
def test_the_wheel_carries_recipes_card_and_weights(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", str(tmp_path), str(root)], check=True, timeout=300)
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, timeout=300)
    where = "import timm_jackpot; print(timm_jackpot.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(site))
    assert (site / "timm_jackpot" / "hubcards" / "card.md.jinja").is_file()
    assert (site / "timm_jackpot" / "py.typed").is_file()
    words = ["timm_jackpot.search", "--recipe", "digits", "--steps", "2", "--output", "w"]
    result = last_json(run(*words, cwd=tmp_path, PYTHONPATH=str(site)))
    assert result["steps"] == 2
