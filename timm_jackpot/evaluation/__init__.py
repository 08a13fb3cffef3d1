"""Exact accuracy: every image counts once, on any number of processes."""

from timm_jackpot.evaluation.accuracy import Accuracy, evaluate_accuracy
from timm_jackpot.evaluation.predictions import Predictions, predict

__all__ = ["Accuracy", "Predictions", "evaluate_accuracy", "predict"]
