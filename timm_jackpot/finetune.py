"""`accelerate launch -m timm_jackpot.finetune --artifact FOLDER --output CHECKPOINT`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.training.finetune import FinetuneConfig, finetune_jackpot


def main() -> dict[str, object]:
    return finetune_jackpot(parse(FinetuneConfig, recipes=True))


if __name__ == "__main__":
    run_verb(main)
