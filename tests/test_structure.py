"""The public surface is what it says, and every file can be read in one sitting. (Imports: `lint-imports`.)"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import timm_jackpot

PACKAGE = Path(timm_jackpot.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_export_resolves_and_none_hides_a_module() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    for name in timm_jackpot.__all__:
        assert getattr(timm_jackpot, name) is not None
        assert name not in modules


def test_type_checkers_see_what_there_is_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {"__version__", *filter(None, seen)} == set(timm_jackpot.__all__)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = timm_jackpot.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_no_file_is_too_long_for_one_sitting() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert max(lengths.values()) <= 400, max(lengths, key=lambda path: lengths[path])
