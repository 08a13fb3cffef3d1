"""`timm-jackpot predict ARTIFACT IMAGE…`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.evaluation.images import PredictConfig, predict_images


def main() -> dict[str, object]:
    config = parse(PredictConfig)
    answers = predict_images(config)
    for image, classes in answers.items():
        show("\n".join([image, *(f"  {100 * c.probability:6.2f} %  {c.name}" for c in classes)]))
    return {
        "artifact": config.artifact,
        "images": {image: [c._asdict() for c in classes] for image, classes in answers.items()},
    }


if __name__ == "__main__":
    run_verb(main)
