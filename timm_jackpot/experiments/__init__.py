"""Experiments: tables of cells that run one after another; an interrupted experiment resumes where it stopped."""

from timm_jackpot.experiments.cells import Cell, run_cells
from timm_jackpot.experiments.journal import Journal, JournalEntry
from timm_jackpot.experiments.parts import Part, PartFlags, files_of_all_parts, folder_lock
from timm_jackpot.experiments.searches import search_cell
from timm_jackpot.experiments.settings import key_value, merged, unreplaced
from timm_jackpot.experiments.text import csv_table, markdown_table, mean_std, write_outputs

__all__ = [
    "Cell",
    "Journal",
    "JournalEntry",
    "Part",
    "PartFlags",
    "csv_table",
    "files_of_all_parts",
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
