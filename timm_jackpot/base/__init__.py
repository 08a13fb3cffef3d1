"""Bases: pre-trained models, where they come from, and which of their weights can be masked."""

from timm_jackpot import networks  # noqa: F401  # registers our architectures with timm
from timm_jackpot.base.build import (
    build_skeleton,
    create_timm_model,
    open_branches,
    parse_model_kwargs,
    random_network,
    random_weights,
    save_random_weights,
)
from timm_jackpot.base.channels import ChannelGraph, ChannelGroup, Filters, removable_filters
from timm_jackpot.base.copies import copy_with_head, shared_copy, with_head, working_copy
from timm_jackpot.base.flags import BaseFlags
from timm_jackpot.base.load import Base, load_base
from timm_jackpot.base.maskable import DenseWeight, Maskable, classifier_parameters, maskable_weights
from timm_jackpot.base.module import base_from_module
from timm_jackpot.base.recognize import recognize_base
from timm_jackpot.base.ref import MAX_CHANS, MAX_CLASSES, MAX_PIXELS, BaseRef
from timm_jackpot.base.skip_init import SkipInit
from timm_jackpot.base.tensors import (
    TensorId,
    base_digest,
    copy_tensors,
    norm_affine,
    norm_layers,
    norm_statistics,
    state_ids,
    tensor_id,
    tensor_ids,
)

__all__ = [
    "MAX_CHANS",
    "MAX_CLASSES",
    "MAX_PIXELS",
    "Base",
    "BaseFlags",
    "BaseRef",
    "ChannelGraph",
    "ChannelGroup",
    "DenseWeight",
    "Filters",
    "Maskable",
    "SkipInit",
    "TensorId",
    "base_digest",
    "base_from_module",
    "build_skeleton",
    "classifier_parameters",
    "copy_tensors",
    "copy_with_head",
    "create_timm_model",
    "load_base",
    "maskable_weights",
    "norm_affine",
    "norm_layers",
    "norm_statistics",
    "open_branches",
    "parse_model_kwargs",
    "random_network",
    "random_weights",
    "recognize_base",
    "removable_filters",
    "save_random_weights",
    "shared_copy",
    "state_ids",
    "tensor_id",
    "tensor_ids",
    "with_head",
    "working_copy",
]
