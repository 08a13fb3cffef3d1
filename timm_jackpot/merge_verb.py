"""`timm-jackpot merge ARTIFACT FOLDER`"""

from __future__ import annotations

import json

from timm.models import is_model_in_modules

from timm_jackpot.artifact import MergeConfig, merge_artifact
from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.networks import OUR_MODULES


def main() -> dict[str, object]:
    folder = merge_artifact(**parse(MergeConfig).model_dump())
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"]
    ours = "import timm_jackpot.networks  # has this architecture\n" * is_model_in_modules(architecture, OUR_MODULES)
    show(f'{ours}timm.create_model("local-dir:{folder}", pretrained=True)')
    return {"folder": str(folder)}


if __name__ == "__main__":
    run_verb(main)
