"""The principles of Ma et al. 2021 (arXiv:2107.00166, Sec. 2.2), and the verdict that follows from the figures.

The paper lists five: ① non-trivial sparsity (over 60 %); ② a small dense network is clearly worse; ③ so is the same
mask on other initial weights, by over 0.5 points; ④ at some learning rate, an accuracy similar to dense training at
that rate (within a margin that depends on the data); ⑤ one similar to the well-trained dense network's, which are the
base and, where an audit fine-tuned it, the fine-tuned base. The paper has no margin for ②: it is that of ③. The weights
of a jackpot are never trained, so that ③ is asked of all its controls; ② and ④ are "not asked" of it without trained
tickets to compare with.

If the 95 % interval of a figure contains its margin, the answer is "not decided".
"""

from __future__ import annotations

import re
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
SMALL_DENSE_ROW, DENSE_ROW = TICKET_ROWS = ("small_dense_ticket", "dense_ticket")  # trained, for ② and ④
FINE_TUNED = ("full_sgd", "full_adamw")  # all weights of the base trained for as many steps, for ⑤
AUDIT_MODELS = ("dense", "dense_recalibrated", "jackpot", "jackpot_recalibrated", "second_search", *AUDIT_CONTROLS)

NON_TRIVIAL_PERCENT = 60.0
CLEAR_GAP = 0.5  # points
_NO_FIRST = {"no": 0, "not decided": 1, "yes": 2}  # of several answers, the one that decides
FEWEST_IMAGES = 30  # with fewer, bootstrap intervals are not reliable
# The paper's margins for ④ and ⑤, by name of the data set; the first match counts.
_MARGINS = ((r"cifar-?100|tiny-?imagenet", 1.0), (r"imagenet", 1.5))
_DEFAULT_MARGIN = 0.5


class Principle(Document):
    """One of the five: its number in the paper, the answer and, if it was asked, the figure and its margin."""

    number: int
    answer: Answer
    margin: float | None = None
    figure: Interval | None = None
    control: str | None = None  # whose gap is the figure; ⑤: the fine-tuned network, if it is not the base
    lr: float | None = None  # the learning rate at which the figure was found


def answer_principles(
    *,
    kept: int,
    total: int,
    gaps: Mapping[str, Interval],
    behind_dense: Mapping[str, Interval],
    similar_margin: float,
    small_dense: Interval | None = None,
    behind_same_lr: Mapping[float | None, Interval] | None = None,
) -> dict[str, Principle]:
    """Answer every principle; those without figures are not asked.

    Args:
        kept, total: numbers of maskable weights.
        gaps: points by which the jackpot beats each control.
        behind_dense: points by which it is below "dense", which is the base, and each fine-tuned one.
        similar_margin: points below dense that still count as similar.
        small_dense: points by which it beats a small dense network.
        behind_same_lr: points by which it is below dense training, by learning rate (None: that of its search).
    """
    sparsity = 100 * (total - kept) / total
    return {
        "sparsity": Principle(
            number=1,
            answer=_non_trivial(kept, total),
            margin=NON_TRIVIAL_PERCENT,
            figure=Interval(value=sparsity, low=sparsity, high=sparsity),
        ),
        "small_dense": _answer_gap(2, {} if small_dense is None else {SMALL_DENSE_ROW: small_dense}),
        "clear_gap": _answer_gap(3, gaps),
        "similar_same_lr": _answer_similar(4, behind_same_lr or {}, similar_margin),
        "similar_well_trained": _answer_similar_to_all(5, behind_dense, similar_margin),
    }


def similar_margin(dataset: str) -> float:
    """Points below dense that still count as similar in the paper, by name of the data set."""
    return next((margin for pattern, margin in _MARGINS if re.search(pattern, dataset.lower())), _DEFAULT_MARGIN)


def labels_leak(shuffled_ahead: Interval) -> bool:
    """Whether a search with shuffled labels beats recalibrated magnitude beyond noise: it should not."""
    return shuffled_ahead.low > 0


def verdict_of(
    principles: Mapping[str, Principle],
    *,
    test_images: int,
    leaked_test_images: int | None,
    shuffled_ahead: Interval | None,
    all_asked: bool = False,
) -> Verdict:
    """The verdict of the paper's Fig. 2.

    All principles: jackpot. All but ⑤: secondary prize. Without one of the others: none. Not decided if a needed answer
    is not decided, or if the accuracies are not reliable (leaked test images, shuffled labels that help, too few test
    images).

    Args:
        leaked_test_images: test images found among the training images; None if not checked.
        shuffled_ahead: points by which the search with shuffled labels beats recalibrated magnitude, if there is one.
        all_asked: whether ② and ④ are needed too, as they are for a ticket.
    """
    needed = {name: principle.answer for name, principle in principles.items()}
    if needed.pop("sparsity") == "no":
        return "none"
    shuffled_helps = shuffled_ahead is not None and labels_leak(shuffled_ahead)
    if leaked_test_images or shuffled_helps or test_images < FEWEST_IMAGES:
        return "not decided"
    similar = needed.pop("similar_well_trained")
    if "no" in needed.values():
        return "none"
    if "not decided" in (*needed.values(), similar) or (all_asked and "not asked" in (*needed.values(), similar)):
        return "not decided"
    return "jackpot" if similar == "yes" else "secondary prize"


def _answer_gap(number: int, gaps: Mapping[str, Interval]) -> Principle:
    if not gaps:
        return Principle(number=number, answer="not asked")
    control = _hardest(gaps)
    return Principle(
        number=number, answer=_clear(gaps[control]), margin=CLEAR_GAP, figure=gaps[control], control=control
    )


def _answer_similar(number: int, behind: Mapping[float | None, Interval], margin: float) -> Principle:
    """One learning rate at which it is similar is enough."""
    if not behind:
        return Principle(number=number, answer="not asked")
    rank = {"yes": 0, "not decided": 1, "no": 2}
    lr = min(behind, key=lambda at: (rank[_similar(behind[at], margin)], behind[at].value))
    return Principle(number=number, answer=_similar(behind[lr], margin), margin=margin, figure=behind[lr], lr=lr)


def _answer_similar_to_all(number: int, behind: Mapping[str, Interval], margin: float) -> Principle:
    if not behind:
        return Principle(number=number, answer="not asked")
    name = min(behind, key=lambda name: (_NO_FIRST[_similar(behind[name], margin)], -behind[name].value))
    answer = _similar(behind[name], margin)
    control = None if name == "dense" else name
    return Principle(number=number, answer=answer, margin=margin, figure=behind[name], control=control)


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
    return min(gaps, key=lambda control: (_NO_FIRST[_clear(gaps[control])], gaps[control].value))
