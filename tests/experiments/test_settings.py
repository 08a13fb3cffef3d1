"""Which of several settings stands."""

from __future__ import annotations

import pytest

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments import key_value, merged, unreplaced


def test_the_later_wins_and_steps_and_epochs_are_one_place() -> None:
    assert merged({"steps": 3, "lr": 1}, {"epochs": 2}, {"lr": 2}) == {"epochs": 2, "lr": 2}
    assert merged({"epochs": 3}, {"steps": 2}) == {"steps": 2}
    assert merged({"steps": 3, "epochs": 4}, {"lr": 2}) == {"steps": 3, "epochs": 4, "lr": 2}  # a clash of one's own
    assert unreplaced({"steps": 3, "lr": 1, "seed": 0}, {"epochs": 2, "lr": 2}) == {"seed": 0}


def test_a_word_has_two_sides() -> None:
    assert key_value("a=b=c", "--set") == ("a", "b=c")
    for text in ("a", "a=", "=b", ""):
        with pytest.raises(ConfigError, match=f"^--set takes name=value, not '{text}'$"):
            key_value(text, "--set")
