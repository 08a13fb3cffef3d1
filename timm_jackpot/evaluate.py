"""`accelerate launch -m timm_jackpot.evaluate --artefact FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.evaluation.run import EvaluateConfig, evaluate_artefact


def main() -> dict[str, object]:
    return evaluate_artefact(parse(EvaluateConfig))


if __name__ == "__main__":
    run_verb(main)
