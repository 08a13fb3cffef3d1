"""`timm-jackpot methods`: list every method with its family, paper and settings."""

from __future__ import annotations

from typing import Any, ClassVar

from timm_jackpot.cli import parse, run_verb, show
from timm_jackpot.methods import all_methods
from timm_jackpot.schema import Command, Settings


class MethodsConfig(Settings):
    """List the methods that search, compare, sweep, transfer and audit can run."""

    command: ClassVar[Command | None] = Command(
        "methods", ("", "| grep one-shot -A 8", "--json | jq '.methods[] | select(.name == \"snip\")'")
    )


def main() -> dict[str, Any]:
    parse(MethodsConfig)
    methods = all_methods()
    width = max(len(method.name) for method in methods)
    for family in dict.fromkeys(method.family for method in methods):
        show(f"{family}:")
        for method in methods:
            if method.family == family:
                show(f"  {method.name:<{width}}  {method.summary}{f' ({method.paper})' if method.paper else ''}")
    return {
        "methods": [
            {
                "name": method.name,
                "family": method.family,
                "paper": method.paper,
                "summary": method.summary,
                "settings": {
                    name: method.defaults.get(name, field.default)
                    for name, field in method.settings.model_fields.items()
                },
            }
            for method in methods
        ]
    }


if __name__ == "__main__":
    run_verb(main)
