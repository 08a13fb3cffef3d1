"""`accelerate launch -m timm_jackpot.search --model resnet50 --sparsity 0.9`"""

from __future__ import annotations

from timm_jackpot.cli import parse, run_verb
from timm_jackpot.search import RunConfig, SearchConfig, config_of, search_jackpot
from timm_jackpot.search.finished import finished_summary
from timm_jackpot.search.table import comparison_table


def main() -> dict[str, object]:
    config: RunConfig = parse(SearchConfig, recipes=True, schema_of=config_of)
    if (summary := finished_summary(config)) is not None:
        return summary
    result = search_jackpot(config)
    if "artifact" in result.summary:  # the main process
        print(comparison_table(result, config))
    return result.summary


if __name__ == "__main__":
    run_verb(main)
