"""The verbs' help as files, which `timm-jackpot VERB --help` prints without loading torch, and shell completion."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import shtab

from timm_jackpot.artifact import InspectConfig
from timm_jackpot.audit import AuditConfig
from timm_jackpot.benchmarks import BenchConfig
from timm_jackpot.evaluation.images import PredictConfig
from timm_jackpot.evaluation.run import EvaluateConfig
from timm_jackpot.experiments.comparison import CompareConfig
from timm_jackpot.experiments.rivals import RivalsConfig
from timm_jackpot.experiments.sweeps import SweepConfig
from timm_jackpot.experiments.transfer import TransferConfig
from timm_jackpot.export import ExportConfig
from timm_jackpot.flags import parser_of
from timm_jackpot.hub import PushConfig
from timm_jackpot.main import HELP, VERBS
from timm_jackpot.methods.__main__ import MethodsConfig
from timm_jackpot.schema import Settings
from timm_jackpot.search import SearchConfig
from timm_jackpot.training.finetune import FinetuneConfig
from timm_jackpot.training.pretrain import PretrainConfig

_SCHEMAS: tuple[type[Settings], ...] = (
    SearchConfig,
    EvaluateConfig,
    PredictConfig,
    InspectConfig,
    ExportConfig,
    PushConfig,
    AuditConfig,
    CompareConfig,
    RivalsConfig,
    SweepConfig,
    TransferConfig,
    PretrainConfig,
    FinetuneConfig,
    MethodsConfig,
    BenchConfig,
)
SCHEMAS: Mapping[str, type[Settings]] = MappingProxyType(
    {schema.command.verb: schema for schema in _SCHEMAS if schema.command is not None}
)


def help_texts() -> dict[Path, str]:
    """The short and the long help of every verb, by file."""
    return {
        HELP / f"{verb}{'-all' if everything else ''}.txt": parser_of(schema, everything=everything).format_help()
        for verb, schema in SCHEMAS.items()
        for everything in (False, True)
    }


def completion(shell: str) -> str:
    """A script for bash or zsh that completes verbs and flags."""
    parser = argparse.ArgumentParser("timm-jackpot", add_help=False)
    verbs = parser.add_subparsers()
    for verb, schema in SCHEMAS.items():
        flags = parser_of(schema, everything=True)
        verbs.add_parser(verb, parents=[flags], add_help=False, help=VERBS[verb][1])
    return shtab.complete(parser, shell)
