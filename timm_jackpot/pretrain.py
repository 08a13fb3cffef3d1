"""`accelerate launch -m timm_jackpot.pretrain --recipe digits_pretrain --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.training.pretrain import PretrainConfig, pretrain_base


def main() -> dict[str, object]:
    return pretrain_base(parse(PretrainConfig, recipes=True))


if __name__ == "__main__":
    run_verb(main)
