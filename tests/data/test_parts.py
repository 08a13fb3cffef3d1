"""Parts of the training split: held-out images, and halves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from timm_jackpot.data import DataFlags
from timm_jackpot.data.open import hold_out
from timm_jackpot.data.source import part_positions
from timm_jackpot.errors import ConfigError


@given(n=st.integers(0, 200), per_cent=st.integers(0, 99))
def test_held_out_samples_are_disjoint_from_the_rest(n: int, per_cent: int) -> None:
    kept, held_out = hold_out(n, per_cent / 100)
    assert len(held_out) == round(n * per_cent / 100)
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(n))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())


def test_the_hold_out_is_the_same_whatever_was_seeded() -> None:
    torch.manual_seed(1)
    first = hold_out(1000, 0.1)[1]
    torch.manual_seed(2)
    assert torch.equal(hold_out(1000, 0.1)[1], first)
    assert hold_out(10, 0.3)[1].tolist() == [1, 3, 8]  # published figures rest on this choice


@given(labels=st.lists(st.integers(0, 3), max_size=60).map(torch.tensor), parts=st.integers(1, 7))
def test_parts_are_disjoint_complete_and_balanced(labels: Tensor, parts: int) -> None:
    labels = labels.long()
    found = [part_positions(labels, f"{k}/{parts}").tolist() for k in range(1, parts + 1)]
    assert sorted(position for part in found for position in part) == list(range(len(labels)))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert all(part == sorted(part) for part in found)
    counts = torch.stack([labels[part].bincount(minlength=4) for part in found])
    assert (counts.max(0).values - counts.min(0).values).max() <= 1


def test_the_halves_of_a_split_that_is_listed_by_class_are_published_figures_own() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert part_positions(labels, None).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert part_positions(labels, "1/2").tolist() == [0, 2, 4, 6]
    assert part_positions(labels, "2/2").tolist() == [1, 3, 5]
    assert part_positions(labels[:1], "2/2").tolist() == []


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", " 1/2", "1.0/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a part as k/n with 1 ≤ k ≤ n, such as 1/2"):
        DataFlags(train_part=text)
