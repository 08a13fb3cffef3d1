"""The journal: what a kill leaves, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments import Journal, JournalEntry, journal


def test_entries_are_there_again(tmp_path: Path, accelerator: Accelerator) -> None:
    path = tmp_path / "new" / "j.json"
    book = Journal(path, accelerator)
    assert book.entries == {}
    assert not path.parent.exists()
    assert book.note("a", JournalEntry({"lr": 0.1})) == JournalEntry({"lr": 0.1}, None)
    book.note("b", JournalEntry({}, [1.5, None, "é"]))
    again = Journal(path, accelerator)
    assert again.entries == {"a": JournalEntry({"lr": 0.1}, None), "b": JournalEntry({}, [1.5, None, "é"])}
    again.note("a", JournalEntry({"lr": 0.1}, 3))
    assert Journal(path, accelerator).entries["a"].result == 3
    assert [file.name for file in path.parent.iterdir()] == ["j.json"]


def test_a_note_that_cannot_be_written_leaves_the_last_ones(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Journal(tmp_path / "j.json", accelerator)
    book.note("a", JournalEntry({}, 1))

    def full(*_: object) -> None:
        raise ConfigError("no space")

    monkeypatch.setattr(journal, "write_atomically", full)
    with pytest.raises(ConfigError, match="no space"):
        book.note("b", JournalEntry({}, 2))
    assert book.entries == Journal(tmp_path / "j.json", accelerator).entries == {"a": JournalEntry({}, 1)}


@pytest.mark.parametrize("text", ["", "{", "3", "[]", '{"a": 3}', '{"a": {"made_from": 3, "result": 1}}', '{"a": {}}'])
def test_a_damaged_one_is_refused(text: str, tmp_path: Path, accelerator: Accelerator) -> None:
    (tmp_path / "j.json").write_text(text)
    with pytest.raises(ConfigError, match=r"j.json is damaged: delete it to start over, or choose another --output$"):
        Journal(tmp_path / "j.json", accelerator)


@pytest.mark.parametrize(
    ("theirs", "ours", "sentence"),
    [
        ({"lr": 0.1, "steps": 3}, {"lr": 0.1, "steps": 4}, "with steps 3, not 4"),
        ({"lr": 0.1}, {"lr": 0.1, "steps": 4}, "with steps None, not 4"),
        ({"a": [1], "b": "x"}, {}, "with a [1], not None"),
    ],
)
def test_other_settings_are_named(theirs: dict[str, Any], ours: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        JournalEntry(theirs).check(ours, "out holds cell one")
    assert str(refused.value) == f"out holds cell one {sentence}: choose another --output"
    JournalEntry(theirs).check(json.loads(json.dumps(theirs)), "")
