"""The console script: its verbs, their help, completion, and what a terminal sees."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from timm_jackpot import __version__
from timm_jackpot.cli import parse, run_verb
from timm_jackpot.help import SCHEMAS, completion, help_texts
from timm_jackpot.main import HELP, VERBS, main
from timm_jackpot.methods.__main__ import main as list_methods
from timm_jackpot.search import SearchConfig, config_of


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["timm-jackpot", *words])
    main()


def test_the_help_files_are_up_to_date() -> None:
    texts = help_texts()
    assert {path.name for path in HELP.glob("*.txt")} == {path.name for path in texts}
    for path, text in texts.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m timm_jackpot.help`"
        assert max(map(len, text.splitlines())) <= 100
        assert text.count("\n  timm-jackpot") == 3, f"{path.name}: three examples"
    assert SCHEMAS.keys() == VERBS.keys()


def test_search_help_needs_no_torch_and_is_what_the_verb_itself_prints(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from timm_jackpot.main import main; main(); assert not {'torch', 'timm'} & sys.modules.keys()"
    words = [sys.executable, "-c", code, "search", "--help"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert len(printed.splitlines()) <= 60
    with pytest.raises(SystemExit):
        parse(SearchConfig, argv=["--help"], schema_of=config_of)
    assert capsys.readouterr().out == printed


def test_a_method_changes_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "timm_jackpot.search.__main__", raising=False)  # other tests import it
    with pytest.raises(SystemExit):
        typed(monkeypatch, "search", "--method", "snip", "--help")
    assert "[default: snip]" in " ".join(capsys.readouterr().out.split())
    typed(monkeypatch, "search", "--help-all")
    assert "--criterion-batches" in capsys.readouterr().out


def test_the_script_lists_its_verbs_and_says_its_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch)
    printed = capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in VERBS)
    typed(monkeypatch, "--version")
    assert capsys.readouterr().out == f"timm-jackpot {__version__}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serach"], "there is no verb 'serach': did you mean search?"),
        (["xyz"], "there is no verb 'xyz': timm-jackpot --help lists the verbs"),
        (["--print-completion", "fish"], "--print-completion takes bash or zsh"),
    ],
)
def test_a_wrong_verb_is_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        typed(monkeypatch, *words)
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_and_flags(shell: str) -> None:
    script = completion(shell)
    assert "evaluate" in script
    assert "--sparsity" in script


def test_a_terminal_sees_the_table_and_a_pipe_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["methods", *words])
        run_verb(list_methods)
        return capsys.readouterr().out.splitlines()

    piped, alone = printed(), printed("--json")
    assert len(alone) == 1
    assert json.loads(piped[-1]) == json.loads(alone[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert printed() == piped[:-1]
    assert printed("--json") == alone
