"""`timm-jackpot export ARTIFACT FOLDER --format onnx`"""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.export import ExportConfig, export_artifact


def main() -> dict[str, object]:
    described = export_artifact(parse(ExportConfig))
    show(as_lines({key: value for key, value in described.items() if not isinstance(value, (dict, list))}))
    return described


if __name__ == "__main__":
    run_verb(main)
