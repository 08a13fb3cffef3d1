"""Accuracy, exactly: every image counted once, over however many processes."""

from timm_jackpot.evaluation.accuracy import Accuracy, evaluate_accuracy
from timm_jackpot.evaluation.predictions import Predictions, predict

__all__ = ["Accuracy", "Predictions", "evaluate_accuracy", "predict"]
