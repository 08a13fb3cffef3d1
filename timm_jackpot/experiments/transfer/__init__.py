"""Transfer: masks found on source data, evaluated on target data (One ticket to win them all, arXiv:1906.02773)."""

from timm_jackpot.experiments.transfer.plan import TransferConfig, TransferPlan, plan_transfer
from timm_jackpot.experiments.transfer.run import TransferResult, transfer_masks

__all__ = ["TransferConfig", "TransferPlan", "TransferResult", "plan_transfer", "transfer_masks"]
