"""Experiments: tables of cells that run one after another; an interrupted experiment resumes where it stopped."""

from timm_jackpot.experiments.cells import Cell, folder_lock, run_cells
from timm_jackpot.experiments.journal import Journal, JournalEntry
from timm_jackpot.experiments.searches import search_cell
from timm_jackpot.experiments.settings import key_value, merged, unreplaced
from timm_jackpot.experiments.text import csv_table, markdown_table, mean_std, write_outputs

__all__ = [
    "Cell",
    "Journal",
    "JournalEntry",
    "csv_table",
    "folder_lock",
    "key_value",
    "markdown_table",
    "mean_std",
    "merged",
    "run_cells",
    "search_cell",
    "unreplaced",
    "write_outputs",
]
