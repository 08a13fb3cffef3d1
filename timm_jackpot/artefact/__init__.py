"""The artefact: format 1 on disk (hubcards/FORMAT.md); written atomically, read with suspicion."""

from timm_jackpot.artefact.jackpot import Extra, Jackpot
from timm_jackpot.artefact.load import apply_artefact, from_pretrained, load_parts, transform_of
from timm_jackpot.artefact.locate import locate_artefact
from timm_jackpot.artefact.read import Artefact, read_artefact
from timm_jackpot.artefact.report import artefact_report, report_table
from timm_jackpot.artefact.save import check_target, replace_folder, save_pretrained
from timm_jackpot.artefact.schema import Config

__all__ = [
    "Artefact",
    "Config",
    "Extra",
    "Jackpot",
    "apply_artefact",
    "artefact_report",
    "check_target",
    "from_pretrained",
    "load_parts",
    "locate_artefact",
    "read_artefact",
    "replace_folder",
    "report_table",
    "save_pretrained",
    "transform_of",
]
