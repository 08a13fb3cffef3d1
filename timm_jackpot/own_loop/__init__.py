"""A mask search inside your own training loop."""

from timm_jackpot.own_loop.config import JackpotConfig
from timm_jackpot.own_loop.model import TrainableJackpot, get_jackpot_model

__all__ = ["JackpotConfig", "TrainableJackpot", "get_jackpot_model"]
