"""Tickets: sub-networks that are found by training and pruning, and then trained themselves."""

from timm_jackpot.methods.tickets import (  # importing registers them
    lottery,
    random_tickets,
    small_dense,
    transferred,
    tuned_jackpot,
)
from timm_jackpot.methods.tickets.correlation import magnitude_correlation
from timm_jackpot.methods.tickets.rounds import plan_rounds

__all__ = [
    "lottery",
    "magnitude_correlation",
    "plan_rounds",
    "random_tickets",
    "small_dense",
    "transferred",
    "tuned_jackpot",
]
