"""`timm-jackpot merge ARTIFACT FOLDER`"""

from __future__ import annotations

from timm_jackpot.artifact import MergeConfig, merge_artifact
from timm_jackpot.cli import parse, run_verb, show


def main() -> dict[str, object]:
    folder = str(merge_artifact(**parse(MergeConfig).model_dump()))
    show(f'timm.create_model("local-dir:{folder}", pretrained=True)')
    return {"folder": folder}


if __name__ == "__main__":
    run_verb(main)
