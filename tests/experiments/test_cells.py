"""The loop over cells: what is there is not run again, what fails is tried again, and processes agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from test_processes import started

from timm_jackpot.errors import ConfigError, RunInterrupted, TrainingError
from timm_jackpot.experiments import Cell, JournalEntry, Part, PartFlags, folder_lock, run_cells
from timm_jackpot.runtime.lock import locked


class Work:
    """Cells a, b, c that note when they were run; those in `failing` fail."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, Exception] = {}

    def cells(self, **settings: Any) -> list[Cell]:
        return [Cell(key, f"cell {key.upper()}", settings, self._run(key)) for key in "abc"]

    def _run(self, key: str) -> Callable[[], str]:
        def run() -> str:
            if key in self.failing:
                raise self.failing[key]
            self.done.append(key)
            return f"{key}{len(self.done)}"

        return run


def test_what_is_there_is_not_run_again(
    tmp_path: Path, accelerator: Accelerator, capsys: pytest.CaptureFixture[str]
) -> None:
    work, journal = Work(), tmp_path / "out" / "j.json"
    first = run_cells(work.cells(lr=1)[:2], journal, accelerator, what="test: cell")
    assert first == ({"a": "a1", "b": "b2"}, 0, [], 0)
    said = "test: cell 1 of 2: cell A\ntest: cell 2 of 2: cell B (00:00 left in all)\n"
    assert capsys.readouterr().err == said
    second = run_cells(work.cells(lr=1), journal, accelerator, what="test: cell")
    assert second == ({"a": "a1", "b": "b2", "c": "c3"}, 2, [], 0)
    assert capsys.readouterr().err == "test: cell 3 of 3: cell C\n"

    before = journal.read_bytes()
    with pytest.raises(ConfigError, match="out holds a with lr 1, not 2: choose another --output"):
        run_cells(work.cells(lr=2), journal, accelerator, what="test: cell")
    assert work.done == ["a", "b", "c"]
    assert journal.read_bytes() == before


def test_a_failure_stops_the_rest_unless_it_may_go_on(tmp_path: Path, accelerator: Accelerator) -> None:
    work, journal = Work(), tmp_path / "j.json"
    work.failing["b"] = TrainingError("the loss is not a number")
    with pytest.raises(TrainingError, match="not a number"):
        run_cells(work.cells(), journal, accelerator, what="cell")
    assert work.done == ["a"]
    ran = run_cells(work.cells(), journal, accelerator, what="cell", go_on=True)
    assert ran == ({"a": "a1", "c": "c2"}, 1, ["cell B: the loss is not a number"], 0)
    work.failing.clear()
    ran = run_cells(work.cells(lr=0.1)[1:2], journal, accelerator, what="cell")  # what failed may be set otherwise
    assert ran == ({"b": "b3"}, 0, [], 0)


@pytest.mark.parametrize("error", [RunInterrupted("by SIGTERM", 15), ZeroDivisionError("unforeseen")])
def test_a_signal_and_a_bug_always_stop_it(error: Exception, tmp_path: Path, accelerator: Accelerator) -> None:
    work = Work()
    work.failing["b"] = error
    with pytest.raises(type(error)):
        run_cells(work.cells(), tmp_path / "j.json", accelerator, what="cell", go_on=True)
    assert work.done == ["a"]


def test_results_that_lie_elsewhere_are_what_counts(tmp_path: Path, accelerator: Accelerator) -> None:
    runs: list[int] = []
    noted: list[JournalEntry | None] = []
    there: dict[str, JournalEntry] = {}

    def find(entry: JournalEntry | None) -> JournalEntry | None:
        noted.append(entry)
        return there.get("a")

    cell = Cell("a", "A", {"lr": 1}, lambda: runs.append(1) or len(runs), find)
    for expected in (1, 2):  # the journal alone does not say that it is done
        ran = run_cells([cell], tmp_path / "j.json", accelerator, what="cell")
        assert ran == ({"a": expected}, 0, [], 0)
    assert noted == [None, JournalEntry({"lr": 1}, 1)]
    there["a"] = JournalEntry({"lr": 1}, "elsewhere")
    assert run_cells([cell], tmp_path / "j.json", accelerator, what="cell") == ({"a": "elsewhere"}, 1, [], 0)
    there["a"] = JournalEntry({"lr": 3}, "elsewhere")
    with pytest.raises(ConfigError, match="holds a with lr 3, not 1"):
        run_cells([cell], tmp_path / "j.json", accelerator, what="cell")


SEVERAL = """
import json, os, sys
from datetime import timedelta
from pathlib import Path
from timm_jackpot.cli import run_verb
from timm_jackpot.errors import TrainingError
from timm_jackpot.experiments import Cell, cells, run_cells
from timm_jackpot.runtime.processes import make_accelerator

cells._PATIENCE = timedelta(seconds=3)
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
accelerator = make_accelerator(seed=0)

def cell(key, failing=()):
    def run():
        if rank in failing:
            raise TrainingError(f"{key} failed on rank {rank}")
        accelerator.wait_for_everyone()  # as all that is trained together
        return [key, rank]
    return Cell(key, key, {"lr": 1}, run)

def main():
    ran = run_cells([cell("a"), cell("b", "01"), cell("c")], folder / "j.json", accelerator, what="cell", go_on=True)
    again = run_cells([cell("c"), cell("a")], folder / "j.json", accelerator, what="again")
    (folder / f"found{rank}").write_text(json.dumps([ran, again]))
    run_cells([cell("d", "1")], folder / "j.json", accelerator, what="last", go_on=True)

run_verb(main)
"""


@pytest.mark.multiprocess
def test_processes_agree_and_the_main_one_decides(tmp_path: Path) -> None:
    with started(2, ["-c", SEVERAL, str(tmp_path)]) as processes:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    a, c = ["a", "0"], ["c", "0"]
    found = [json.loads((tmp_path / f"found{rank}").read_text()) for rank in range(2)]
    assert found[0] == found[1] == [[{"a": a, "c": c}, 0, ["b: b failed on rank 0"], 0], [{"c": c, "a": a}, 2, [], 0]]
    said = errors[0].replace(" (00:00 left in all)", "")
    assert "cell 2 of 3: b\ncell 2 failed: b failed on rank 0\ncell 3 of 3: c\nlast 1 of 1: d" in said
    # One that fails alone cannot go on: the other waits for it.
    assert errors[1] == "error: d failed on rank 1\n"
    assert "error: another process of this run was lost" in errors[0]
    assert [process.returncode for process in processes] == [2, 2]
    entries = json.loads((tmp_path / "j.json").read_text())
    assert {key: entry["result"] for key, entry in entries.items()} == {"a": a, "b": None, "c": c, "d": None}


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path, accelerator: Accelerator) -> None:
    refused = r"another run \(process \d+\) is writing to .*out: choose another --output"
    with (
        locked(tmp_path / "out"),
        pytest.raises(ConfigError, match=refused),
        folder_lock(tmp_path / "out", accelerator),
    ):
        pass
    with folder_lock(tmp_path / "out", accelerator):
        assert not (tmp_path / "out").exists()


def test_parts_share_the_work_and_their_results(tmp_path: Path, accelerator: Accelerator) -> None:
    work, journal = Work(), tmp_path / "out" / "j.json"
    first = run_cells(work.cells(), journal, accelerator, what="cell", part=Part(1, 2))
    assert first == ({"a": "a1", "c": "c2"}, 0, [], 1)
    second = run_cells(work.cells(), journal, accelerator, what="cell", part=Part(2, 2))
    assert second == ({"a": "a1", "b": "b3", "c": "c2"}, 2, [], 0)
    assert sorted(path.name for path in journal.parent.iterdir()) == ["j.1of2.json", "j.2of2.json"]
    assert run_cells(work.cells(), journal, accelerator, what="cell") == (second.results, 3, [], 0)
    assert work.done == ["a", "c", "b"]
    with pytest.raises(ConfigError, match="out holds a with lr None, not 2"):
        run_cells(work.cells(lr=2), journal, accelerator, what="cell", part=Part(2, 2))


def test_what_other_parts_finish_meanwhile_counts(tmp_path: Path, accelerator: Accelerator) -> None:
    work, others, journal = Work(), Work(), tmp_path / "j.json"

    def run() -> str:
        run_cells(others.cells(), journal, accelerator, what="other", part=Part(2, 2))
        return "c"

    cells = [*work.cells()[:2], Cell("c", "cell C", {}, run)]
    ran = run_cells(cells, journal, accelerator, what="cell", part=Part(1, 2))
    assert ran == ({"a": "a1", "b": "b1", "c": "c"}, 0, [], 0)


@pytest.mark.parametrize("number", range(1, 6))
def test_every_cell_is_in_one_part(number: int) -> None:
    items = list(range(4))
    assert sorted(item for n in range(1, number + 1) for item in Part(n, number).share(items)) == items
    assert Part().share(items) == items


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "1/2/3", "-1/2", "1/99999", "½"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--part .*: write the second of four parts as 2/4"):
        PartFlags(part=text)


@pytest.mark.parametrize("name", ["out", "[o]ut*out"])
def test_parts_of_one_division_run_at_the_same_time(name: str, tmp_path: Path, accelerator: Accelerator) -> None:
    def refused(why: str, part: Part) -> None:
        with pytest.raises(ConfigError, match=why), folder_lock(tmp_path / name, accelerator, part):
            pass

    with folder_lock(tmp_path / name, accelerator, Part(1, 2)):
        refused(r"the same part is running in .* already \(process \d+\)", Part(1, 2))
        refused("part 1 of 2 is running in .*: wait until it ends", Part())
        refused("part 1 of 2 is running in .*: wait until it ends", Part(1, 3))
        with folder_lock(tmp_path / name, accelerator, Part(2, 2)):
            pass
    with folder_lock(tmp_path / name, accelerator):
        refused("another run is writing to .*: choose another --output", Part(2, 2))
    with folder_lock(tmp_path / name, accelerator, Part(1, 3)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_killed_run_left_is_no_obstacle(tmp_path: Path, accelerator: Accelerator) -> None:
    (tmp_path / ".out.lock").write_text("1\n")
    with folder_lock(tmp_path / "out", accelerator, Part(1, 2)):
        assert not (tmp_path / ".out.lock").exists()
