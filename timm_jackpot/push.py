"""`timm-jackpot push FOLDER --repo-id user/name`"""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.hub import PushConfig, push_to_hub


def main() -> dict[str, object]:
    summary = push_to_hub(**parse(PushConfig).model_dump())
    show(as_lines(summary))
    return summary


if __name__ == "__main__":
    run_verb(main)
