"""Experiments: tables of cells, run one after the other; a run that was killed goes on where it stopped."""

from timm_jackpot.experiments.cells import Cell, Ran, run_cells
from timm_jackpot.experiments.journal import Entry, Journal
from timm_jackpot.experiments.outputs import write_outputs
from timm_jackpot.experiments.searches import search_cell
from timm_jackpot.experiments.text import csv_table, markdown_table, mean_std

__all__ = [
    "Cell",
    "Entry",
    "Journal",
    "Ran",
    "csv_table",
    "markdown_table",
    "mean_std",
    "run_cells",
    "search_cell",
    "write_outputs",
]
