"""Accuracy, exactly: every image counted once, over however many processes."""

from timm_jackpot.evaluation.accuracy import Accuracy, evaluate_accuracy

__all__ = ["Accuracy", "evaluate_accuracy"]
