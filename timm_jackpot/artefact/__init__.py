"""The artefact: format 1 on disk (hubcards/FORMAT.md); written atomically, read with suspicion."""

from timm_jackpot.artefact.jackpot import Extra, Jackpot
from timm_jackpot.artefact.load import check_base, check_skeleton, from_pretrained, load_dense_base, transform_of
from timm_jackpot.artefact.locate import locate_artefact
from timm_jackpot.artefact.read import Artefact, read_artefact
from timm_jackpot.artefact.report import artefact_report, report_table
from timm_jackpot.artefact.save import artefact_digest, check_target, replace_folder, save_pretrained
from timm_jackpot.artefact.schema import Config

__all__ = [
    "Artefact",
    "Config",
    "Extra",
    "Jackpot",
    "artefact_digest",
    "artefact_report",
    "check_base",
    "check_skeleton",
    "check_target",
    "from_pretrained",
    "load_dense_base",
    "locate_artefact",
    "read_artefact",
    "replace_folder",
    "report_table",
    "save_pretrained",
    "transform_of",
]
