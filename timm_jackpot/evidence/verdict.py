"""What follows from the numbers: the principles of "Sanity Checks for Lottery Tickets", and the verdict.

Ma et al. 2021 (arXiv:2107.00166), Sec. 2.2, list five. Of a jackpot, whose weights are never trained, three can be
asked: ① a non-trivial sparsity (over 60 %); ③ a clear gap (over 0.5 points) to what it is compared with, here every
control; ⑤ an accuracy similar to that of the well-trained dense network (within a margin that depends on the data).
② compares with a small dense network that is trained, ④ with tickets at their own learning rates: "not asked".

Where the 95 % interval of a figure has its margin inside, the answer is "not decided".
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
FEWEST_IMAGES = 30  # below, a bootstrap over test images takes chance for certainty


class Principle(Document):
    """One of the five: its number in the paper, the answer, and, where it was asked, the figure beside its margin."""

    number: int
    answer: Answer
    margin: float | None = None
    figure: Interval | None = None
    control: str | None = None  # whose gap the figure is


def answer_principles(
    *, kept: int, total: int, gaps: Mapping[str, Interval], behind_dense: Interval, similar_margin: float
) -> dict[str, Principle]:
    """Every principle with its answer.

    Args:
        kept, total: of the maskable weights.
        gaps: by how many points the jackpot is ahead of each control.
        behind_dense: by how many points it is behind the dense base.
        similar_margin: how many points behind still count as similar.
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
    """Whether a search with shuffled labels beats magnitude + statistics by more than noise: it cannot, honestly."""
    return shuffled_ahead.low > 0


def verdict_of(
    principles: Mapping[str, Principle], *, test_images: int, leaked_test_images: int | None, shuffled_ahead: Interval
) -> Verdict:
    """The verdict of the paper's Fig. 2, without the principles that need trained tickets.

    ① and ③ and ⑤: jackpot. ① and ③ without ⑤: secondary prize. Without ① or ③: none. Where one that it hangs on is
    not decided, or the accuracies cannot be believed (leaked test images, labels that act though shuffled, next to no
    test images): not decided.

    Args:
        leaked_test_images: found among the training images; None where that was not checked.
        shuffled_ahead: points by which the search with shuffled labels is ahead of magnitude + statistics.
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
    """A clear gap is *over* the margin: a tie with it is none."""
    if gap.low > CLEAR_GAP:
        return "yes"
    return "no" if gap.high <= CLEAR_GAP else "not decided"


def _similar(behind: Interval, margin: float) -> Answer:
    """Similar is *within* the margin, or ahead: a tie with it is."""
    if behind.high <= margin:
        return "yes"
    return "no" if behind.low > margin else "not decided"


def _hardest(gaps: Mapping[str, Interval]) -> str:
    """The control that the answer hangs on: a lost one before an undecided one, and of these the nearest."""
    rank = {"no": 0, "not decided": 1, "yes": 2}
    return min(gaps, key=lambda control: (rank[_clear(gaps[control])], gaps[control].value))
