"""The artefact: format 1 on disk (hubcards/FORMAT.md); written atomically, read with suspicion."""

from timm_jackpot.artefact.compact import compact_on
from timm_jackpot.artefact.jackpot import Extra, Jackpot
from timm_jackpot.artefact.load import apply_artefact, from_pretrained, open_artefact, transform_of
from timm_jackpot.artefact.locate import locate_artefact
from timm_jackpot.artefact.read import Artefact, read_artefact
from timm_jackpot.artefact.report import artefact_report, report_table
from timm_jackpot.artefact.save import check_target, recode, replace_folder, save_pretrained
from timm_jackpot.artefact.schema import Config, Encoding

__all__ = [
    "Artefact",
    "Config",
    "Encoding",
    "Extra",
    "Jackpot",
    "apply_artefact",
    "artefact_report",
    "check_target",
    "compact_on",
    "from_pretrained",
    "locate_artefact",
    "open_artefact",
    "read_artefact",
    "recode",
    "replace_folder",
    "report_table",
    "save_pretrained",
    "transform_of",
]
