"""A corpus of hostile artifacts, each made from a good one; hostile.program loads them.

Left out on purpose: what no reader can see. Whoever rewrites masks, statistics, model arguments or metrics and
every hash over them has made another artifact, not a damaged one; two masks of equal-sized layers exchanged and
sealed again are the simplest case. Hashes detect damage, not forgery.
"""

from hostile import claimed, compact, config, extras, folders, sealed, tensors  # importing registers the cases
from hostile.bases import arguments, odd_module
from hostile.case import BAIT, CASES, CONFIG, EXTRAS, GOOD, MASKS, SECRET, Case, edited, forged, reseal

__all__ = [
    "BAIT",
    "CASES",
    "CONFIG",
    "EXTRAS",
    "GOOD",
    "MASKS",
    "SECRET",
    "Case",
    "arguments",
    "claimed",
    "compact",
    "config",
    "edited",
    "extras",
    "folders",
    "forged",
    "odd_module",
    "reseal",
    "sealed",
    "tensors",
]
