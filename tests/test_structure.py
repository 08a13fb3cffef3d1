"""The house: imports point down, names do not collide, the public surface is what it says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import timm_jackpot

PACKAGE = Path(timm_jackpot.__file__).parent

# Bottom to top; a room may import from rooms with a smaller number only.
FLOORS = {
    "errors": 0,
    "processes": 0.1,
    "progress": 0.1,
    "interruption": 0.1,
    "lock": 0.1,
    "outputs": 0.1,
    "streams": 0.1,
    "masks": 0.1,
    "recipes": 0.1,
    "patterns": 0.05,
    "base": 1.0,
    "data": 1.1,
    "adapter": 1.2,
    "criteria": 1.2,
    "artifact": 2.0,
    "evidence": 2.05,
    "evaluation": 2.1,
    "training": 2.2,
    "plots": 2.3,
    "hub": 3.0,
    "serving": 3.0,
    "search": 3.1,
    "experiments": 3.14,
    "sweeps": 3.15,
    "transfer": 3.17,
    "comparison": 3.17,
    "audit": 3.18,
    "benchmarks": 3.2,
    "cli": 4.0,
}
VERBS = {
    "search",
    "evaluate",
    "inspect",
    "pretrain",
    "finetune",
    "sweep",
    "push",
    "bench",
    "audit",
    "transfer",
    "compare",
}


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _level(room: str, path: Path) -> float:
    is_verb = path.name == "__main__.py" or (path.parent == PACKAGE and room in VERBS)
    return 4.1 if is_verb else FLOORS[room]


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("timm_jackpot"):
            parts = node.module.split(".")
            found += [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [a.name.split(".")[1] for a in node.names if a.name.startswith("timm_jackpot.")]
    return [name for name in found if name != "__version__"]


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    level = _level(room, path)
    for other in _imports(path):
        assert other not in VERBS - {"search", "transfer", "audit"}, f"{path.name} imports the verb {other}"
        if other != room:
            assert FLOORS[other] < level, f"{room} (floor {level}) imports {other} (floor {FLOORS[other]})"


def test_a_room_above_is_caught() -> None:
    assert FLOORS["masks"] < FLOORS["base"] < FLOORS["artifact"] < FLOORS["search"]
    assert _level("search", PACKAGE / "search" / "__main__.py") > FLOORS["cli"]


def test_every_export_resolves_and_none_is_a_verb() -> None:
    for name in timm_jackpot.__all__:
        assert getattr(timm_jackpot, name) is not None
        assert name not in VERBS


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = timm_jackpot.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_no_file_is_too_long_for_one_sitting() -> None:
    lengths = {p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert max(lengths.values()) <= 400, max(lengths, key=lambda n: lengths[n])
