"""`timm-jackpot search --model resnet50 --sparsity 0.9`; with several processes
`accelerate launch --multi_gpu -m timm_jackpot.search --model resnet50 --sparsity 0.9`."""

from __future__ import annotations

from timm_jackpot.cli import as_lines, parse, run_verb, show
from timm_jackpot.methods import method
from timm_jackpot.search import RunConfig, SearchConfig, config_of, search_jackpot
from timm_jackpot.search.finished import finished_summary
from timm_jackpot.search.plan import plan_search
from timm_jackpot.search.table import comparison_table
from timm_jackpot.search.ticket import finished_ticket, train_ticket


def main() -> dict[str, object]:
    config: RunConfig = parse(SearchConfig, schema_of=config_of)
    if config.plan:
        summary = plan_search(config)
        show(as_lines(summary))
        return summary
    if not method(config.method).finds_jackpots:
        summary = finished_ticket(config) or train_ticket(config).summary
        show(as_lines(summary))
        return summary
    if (summary := finished_summary(config)) is not None:
        show(as_lines(summary))
        return summary
    result = search_jackpot(config)
    if "artifact" in result.summary:  # the main process
        show(comparison_table(result, config))
    return result.summary


if __name__ == "__main__":
    run_verb(main)
