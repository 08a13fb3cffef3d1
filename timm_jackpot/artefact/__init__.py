"""The artefact: format 1 on disk (hubcards/FORMAT.md); written atomically, read with suspicion."""

from timm_jackpot.artefact.compact import compact_on
from timm_jackpot.artefact.jackpot import Extra, Jackpot
from timm_jackpot.artefact.load import (
    apply_artefact,
    check_base,
    check_skeleton,
    from_pretrained,
    load_base_of,
    load_dense_base,
    open_artefact,
    transform_of,
)
from timm_jackpot.artefact.locate import locate_artefact
from timm_jackpot.artefact.read import Artefact, read_artefact
from timm_jackpot.artefact.report import artefact_report, report_table
from timm_jackpot.artefact.save import artefact_digest, check_target, recode, replace_folder, save_pretrained
from timm_jackpot.artefact.schema import Config, Encoding

__all__ = [
    "Artefact",
    "Config",
    "Encoding",
    "Extra",
    "Jackpot",
    "apply_artefact",
    "artefact_digest",
    "artefact_report",
    "check_base",
    "check_skeleton",
    "check_target",
    "compact_on",
    "from_pretrained",
    "load_base_of",
    "load_dense_base",
    "locate_artefact",
    "open_artefact",
    "read_artefact",
    "recode",
    "replace_folder",
    "report_table",
    "save_pretrained",
    "transform_of",
]
