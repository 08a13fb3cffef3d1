"""Every code block of README and docs works, or says above itself why it is not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from accelerate.state import AcceleratorState, GradientState

from timm_jackpot import SearchConfig, main, search_jackpot, zero_fractions
from timm_jackpot.cli import parse
from timm_jackpot.help import SCHEMAS
from timm_jackpot.search import RunConfig, config_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_VERB = re.compile(r"(?:timm-jackpot|-m timm_jackpot\.)\s*(\w+)(.*)")


class Block(NamedTuple):
    language: str
    code: str
    not_run: str | None


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["code"], m["why"]) for m in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def verb_lines(code: str) -> Iterator[tuple[str, list[str]]]:
    """The verbs of a shell block, and their words."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            if (found := _VERB.search(part)) is not None:
                yield found[1], shlex.split(found[2], comments=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jackpots: Path) -> Path:
    """A working folder that holds the two jackpots of the README."""
    for name in ("my_jackpot", "another_jackpot"):
        (tmp_path / name).symlink_to(jackpots / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def jackpots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jackpots")
    for name, sparsity in (("my_jackpot", "0.9"), ("another_jackpot", "0.8")):
        search_jackpot(SearchConfig(sparsity=sparsity, steps=2, output=str(folder / name)))
    return folder


def pages_with(language: str) -> list[Any]:
    return [pytest.param(page, id=page.stem) for page in PAGES if any(b.language == language for b in blocks(page))]


def test_the_pages_are_there_and_short() -> None:
    assert len(PAGES) >= 8
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    assert {block.language for page in PAGES for block in blocks(page)} <= {"bash", "python"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_have_flags_that_exist(page: Path) -> None:
    commands = [one for block in blocks(page) if block.language == "bash" for one in verb_lines(block.code)]
    assert commands
    for verb, words in commands:
        words = [word.replace("$SLURM_ARRAY_TASK_ID", "1") for word in words]
        config = parse(SCHEMAS[verb], argv=words, schema_of=config_of if verb == "search" else None)
        assert isinstance(config, RunConfig if verb == "search" else SCHEMAS[verb])
        assert bool(config.model_fields_set) == bool(words), "each word of the command is a setting"


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and block.not_run is None:
            for name in re.findall(r'output="(\w+)"', block.code):
                (folder / name).unlink(missing_ok=True)
            exec(compile(block.code, str(page), "exec"), names)
    networks = [value for value in names.values() if type(value).__name__ == "ResNet"]
    assert all(max(zero_fractions(network).values()) > 0.4 for network in networks), "what they load or merge is sparse"
    assert networks or len(names["logits"]) == len(names["images"]) == 3, "or, on the page about serving, answers"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_run(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for block in blocks(page):
        if block.language != "bash" or block.not_run is not None:
            continue
        for verb, words in verb_lines(block.code):
            if "--output" in words and (old := folder / words[words.index("--output") + 1]).is_symlink():
                old.unlink()
            AcceleratorState._reset_state(True)
            GradientState._reset_state()
            monkeypatch.setattr("sys.argv", ["timm-jackpot", verb, *words])
            main.main()
            assert capsys.readouterr().out
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
