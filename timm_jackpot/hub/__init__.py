"""The Hugging Face Hub: model cards and pushing."""

from timm_jackpot.hub.card import render_card
from timm_jackpot.hub.config import PushConfig
from timm_jackpot.hub.push import push_to_hub

__all__ = ["PushConfig", "push_to_hub", "render_card"]
