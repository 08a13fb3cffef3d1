"""`timm-jackpot evaluate FOLDER`"""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.evaluation.run import EvaluateConfig, evaluate_artifact


def main() -> dict[str, object]:
    summary = evaluate_artifact(parse(EvaluateConfig))
    show(as_lines(summary))
    return summary


if __name__ == "__main__":
    run_verb(main)
