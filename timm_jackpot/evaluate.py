"""`accelerate launch -m timm_jackpot.evaluate --artifact FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.evaluation.run import EvaluateConfig, evaluate_artifact


def main() -> dict[str, object]:
    return evaluate_artifact(parse(EvaluateConfig))


if __name__ == "__main__":
    run_verb(main)
