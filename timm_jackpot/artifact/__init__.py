"""Artifacts on disk (format: hubcards/FORMAT.md): written atomically, and nothing that is read is trusted."""

from timm_jackpot.artifact.extras import bytes_by_kind, rounded_extra
from timm_jackpot.artifact.fit import check_skeleton, check_weight_count
from timm_jackpot.artifact.flags import ArtifactFlags, InspectConfig
from timm_jackpot.artifact.jackpot import Extra, Jackpot
from timm_jackpot.artifact.load import (
    apply_artifact,
    check_base,
    described_by,
    from_pretrained,
    load_base_of,
    load_dense_base,
    open_artifact,
    transform_of,
)
from timm_jackpot.artifact.locate import locate_artifact
from timm_jackpot.artifact.read import Artifact, read_artifact, read_config
from timm_jackpot.artifact.report import KINDS, artifact_report, report_table, size_line
from timm_jackpot.artifact.save import (
    artifact_digest,
    artifact_files,
    check_target,
    is_artifact,
    recode,
    recover_folder,
    replace_folder,
    save_pretrained,
)
from timm_jackpot.artifact.schema import Config, Encoding, ExtrasDtype
from timm_jackpot.artifact.ticket import (
    INITIAL,
    INNER,
    TICKET,
    TICKET_FORMAT,
    Spent,
    Ticket,
    TicketLayer,
    TicketPhase,
    is_ticket,
    read_ticket,
)
from timm_jackpot.artifact.timm_checkpoint import timm_checkpoint

__all__ = [
    "INITIAL",
    "INNER",
    "KINDS",
    "TICKET",
    "TICKET_FORMAT",
    "Artifact",
    "ArtifactFlags",
    "Config",
    "Encoding",
    "Extra",
    "ExtrasDtype",
    "InspectConfig",
    "Jackpot",
    "Spent",
    "Ticket",
    "TicketLayer",
    "TicketPhase",
    "apply_artifact",
    "artifact_digest",
    "artifact_files",
    "artifact_report",
    "bytes_by_kind",
    "check_base",
    "check_skeleton",
    "check_target",
    "check_weight_count",
    "described_by",
    "from_pretrained",
    "is_artifact",
    "is_ticket",
    "load_base_of",
    "load_dense_base",
    "locate_artifact",
    "open_artifact",
    "read_artifact",
    "read_config",
    "read_ticket",
    "recode",
    "recover_folder",
    "replace_folder",
    "report_table",
    "rounded_extra",
    "save_pretrained",
    "size_line",
    "timm_checkpoint",
    "transform_of",
]
