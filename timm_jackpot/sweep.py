"""`accelerate launch -m timm_jackpot.sweep --recipe NAME --output FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.experiments.sweeps import SweepConfig, run_sweep


def main() -> dict[str, object]:
    return run_sweep(parse(SweepConfig))


if __name__ == "__main__":
    run_verb(main)
