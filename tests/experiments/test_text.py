"""Tables as text."""

from __future__ import annotations

import csv

import pytest

from timm_jackpot.experiments import csv_table, markdown_table, mean_std


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "–"),
        ([None], "–"),
        ([81.0], "81.00 (1)"),
        ([81.0, None, 83.0], "82.00 ± 1.41 (2)"),
        ([50.0, 50.0, 50.0], "50.00 (3)"),
    ],
)
def test_a_mean_tells_spread_and_number(values: list[float | None], text: str) -> None:
    assert mean_std(values, count=True) == text
    assert mean_std(values) == text.partition(" (")[0]


def test_digits_are_as_many_as_asked_for() -> None:
    assert mean_std([1.0, 2.0], digits=1) == "1.5 ± 0.7"


def test_markdown_has_its_rule_below_the_head() -> None:
    assert markdown_table(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]


def test_csv_has_every_column_of_any_row() -> None:
    text = csv_table([{"a": 1, "b": "x,y"}, {"a": None, "c": 0.1}])
    assert text.splitlines()[0] == "a,b,c"
    assert list(csv.DictReader(text.splitlines())) == [
        {"a": "1", "b": "x,y", "c": ""},
        {"a": "", "b": "", "c": "0.1"},
    ]
