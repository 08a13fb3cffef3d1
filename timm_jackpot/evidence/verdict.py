"""The principles of Ma et al. 2021 (arXiv:2107.00166, Sec. 2.2), and the verdict that follows from the figures.

The paper lists five. Three apply to a jackpot, whose weights are never trained: ① non-trivial sparsity (over 60 %);
③ a clear gap (over 0.5 points) to every control; ⑤ an accuracy similar to the well-trained dense network's (within a
margin that depends on the data). ② compares with a trained small dense network and ④ with a dense network at the same
learning rate: both are "not asked".

If the 95 % interval of a figure contains its margin, the answer is "not decided".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from timm_jackpot.evidence.interval import Interval
from timm_jackpot.schema import Document

Answer = Literal["yes", "no", "not decided", "not asked"]
Verdict = Literal["jackpot", "secondary prize", "none", "not decided"]

AUDIT_CONTROLS = (
    "magnitude",
    "magnitude_recalibrated",
    "permuted_within",
    "permuted_across",
    "random",
    "smallest",
    "reinitialised",
    "shuffled_labels",
)
AUDIT_MODELS = ("dense", "dense_recalibrated", "jackpot", "jackpot_recalibrated", "second_search", *AUDIT_CONTROLS)

NON_TRIVIAL_PERCENT = 60.0
CLEAR_GAP = 0.5  # points
FEWEST_IMAGES = 30  # with fewer, bootstrap intervals are not reliable


class Principle(Document):
    """One of the five: its number in the paper, the answer and, if it was asked, the figure and its margin."""

    number: int
    answer: Answer
    margin: float | None = None
    figure: Interval | None = None
    control: str | None = None  # the control whose gap is the figure


def answer_principles(
    *, kept: int, total: int, gaps: Mapping[str, Interval], behind_dense: Interval, similar_margin: float
) -> dict[str, Principle]:
    """Answer every principle.

    Args:
        kept, total: numbers of maskable weights.
        gaps: points by which the jackpot beats each control.
        behind_dense: points by which it is below the dense base.
        similar_margin: points below dense that still count as similar.
    """
    control = _hardest(gaps)
    sparsity = 100 * (total - kept) / total
    return {
        "sparsity": Principle(
            number=1,
            answer=_non_trivial(kept, total),
            margin=NON_TRIVIAL_PERCENT,
            figure=Interval(value=sparsity, low=sparsity, high=sparsity),
        ),
        "small_dense": Principle(number=2, answer="not asked"),
        "clear_gap": Principle(
            number=3, answer=_clear(gaps[control]), margin=CLEAR_GAP, figure=gaps[control], control=control
        ),
        "similar_same_lr": Principle(number=4, answer="not asked"),
        "similar_well_trained": Principle(
            number=5, answer=_similar(behind_dense, similar_margin), margin=similar_margin, figure=behind_dense
        ),
    }


def labels_leak(shuffled_ahead: Interval) -> bool:
    """Whether a search with shuffled labels beats recalibrated magnitude beyond noise: it should not."""
    return shuffled_ahead.low > 0


def verdict_of(
    principles: Mapping[str, Principle], *, test_images: int, leaked_test_images: int | None, shuffled_ahead: Interval
) -> Verdict:
    """The verdict of the paper's Fig. 2, without the principles that need trained tickets.

    ①, ③ and ⑤: jackpot. ① and ③ without ⑤: secondary prize. Without ① or ③: none. Not decided if a needed answer is
    not decided, or if the accuracies are not reliable (leaked test images, shuffled labels that help, too few test
    images).

    Args:
        leaked_test_images: test images found among the training images; None if not checked.
        shuffled_ahead: points by which the search with shuffled labels beats recalibrated magnitude.
    """
    gap, similar = principles["clear_gap"].answer, principles["similar_well_trained"].answer
    if principles["sparsity"].answer == "no":
        return "none"
    if leaked_test_images or labels_leak(shuffled_ahead) or test_images < FEWEST_IMAGES:
        return "not decided"
    if gap == "no":
        return "none"
    if "not decided" in (gap, similar):
        return "not decided"
    return "jackpot" if similar == "yes" else "secondary prize"


def _non_trivial(kept: int, total: int) -> Answer:
    return "yes" if 100 * (total - kept) > NON_TRIVIAL_PERCENT * total else "no"


def _clear(gap: Interval) -> Answer:
    """A clear gap is *over* the margin: exactly the margin is not enough."""
    if gap.low > CLEAR_GAP:
        return "yes"
    return "no" if gap.high <= CLEAR_GAP else "not decided"


def _similar(behind: Interval, margin: float) -> Answer:
    """Similar is *within* the margin: exactly the margin is enough."""
    if behind.high <= margin:
        return "yes"
    return "no" if behind.low > margin else "not decided"


def _hardest(gaps: Mapping[str, Interval]) -> str:
    """The control that decides the answer: one without a clear gap, else an undecided one; of several, the closest."""
    rank = {"no": 0, "not decided": 1, "yes": 2}
    return min(gaps, key=lambda control: (rank[_clear(gaps[control])], gaps[control].value))
