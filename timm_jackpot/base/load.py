"""`load_base`: any name that timm takes → the model with its pre-trained weights, and its `BaseRef`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, is_model, split_model_name_tag
from torch import Tensor, nn

from timm_jackpot.base.hub_files import download
from timm_jackpot.base.maskable import classifier_parameters
from timm_jackpot.base.ref import MAX_CLASSES, MODEL_KWARGS, BaseRef, Scalar
from timm_jackpot.base.saved_config import read_saved_config
from timm_jackpot.base.skip_init import SkipInit
from timm_jackpot.base.tensors import TensorId, base_digest, tensor_ids
from timm_jackpot.errors import BaseError, BaseMismatchError
from timm_jackpot.schema import fault_of

_WEIGHTS = "model.safetensors"
_GROWTH, _ALLOWANCE = 4, 64 * 2**20  # how much larger than usual a stranger's numbers may make a model, in bytes


@dataclass(frozen=True)
class Base:
    """A pre-trained model in eval mode, its identity, and the identity of each of its tensors."""

    model: nn.Module
    ref: BaseRef
    tensors: dict[str, TensorId]
    adapted: tuple[str, ...]  # tensors that did not come unchanged from the checkpoint

    @property
    def new_head(self) -> bool:
        """Whether the classifier was initialized anew."""
        return any(name in self.adapted for name in classifier_parameters(self.model))


@dataclass(frozen=True)
class _Source:
    """Where a base comes from, settled before anything is built."""

    kind: str  # "timm" or "file"
    name: str  # what timm.create_model is given
    architecture: str
    tag: str | None
    weights: Path
    hub_id: str | None = None
    revision: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)  # what the source's own config sets


def load_base(
    name: str,
    *,
    model_kwargs: Mapping[str, Scalar] | None = None,
    base_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Base:
    """Build a pre-trained base on the CPU, in float32 and eval mode.

    Args:
        name: a timm model name with or without tag (`resnet50.a1_in1k`), `hf-hub:user/repo[@revision]`, or
            `local-dir:folder`.
        model_kwargs: further arguments of the timm model; scalars, names from `MODEL_KWARGS`.
        base_checkpoint: a .safetensors file with the weights, instead of the ones that timm knows.
        num_classes: classes of a new head, where it differs from the checkpoint's; the head is then
            initialised anew (seed it with `torch.manual_seed`).
        in_chans, img_size: other input channels or image size (pixels); timm adapts stem and embeddings.
        revision: branch, tag or commit of the Hub repo; the commit it resolves to is recorded.
        token, cache_dir, local_files_only: as in huggingface_hub.

    Raises:
        BaseError: unknown model or argument, no safetensors weights to be had.
        BaseMismatchError: the checkpoint's tensors do not fit; names the first that differs, both shapes.
        HubError: the Hub could not be reached or refused.
    """
    kwargs: dict[str, Any] = dict(model_kwargs or {})
    unknown = sorted(set(kwargs) - MODEL_KWARGS)
    if unknown:
        raise BaseError(
            f"model argument {unknown[0]!r} is not supported: it must be one of the scalar arguments in "
            "timm_jackpot.base.ref.MODEL_KWARGS"
        )
    hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    source = _find(name, None if base_checkpoint is None else Path(base_checkpoint), revision, hub)
    # Recorded like flags: whoever loads the artifact may have no such config.
    kwargs = {**_recordable(source), **kwargs}
    img_size = img_size or _pixels(source)
    changes = {"in_chans": in_chans, "img_size": img_size}
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    overlay: dict[str, Any] = {"file": str(source.weights), "source": "file", "custom_load": False}
    classes = _classes_of(source)
    if classes is not None:
        overlay["num_classes"] = classes
    native = {**kwargs, **({} if classes is None else {"num_classes": classes})}
    try:
        model = create_timm_model(source.name, requested, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    except TypeError as error:
        raise BaseError(f"{source.architecture} does not take these arguments: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # arguments and config may be a stranger's: anything can happen in a constructor
        raise _explain(source, native, error) from error
    # Every tensor of the checkpoint is in its place now (timm would load less strictly beside a new head).
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
        requested["num_classes"] = num_classes
    model.eval()
    adapted = _adapted(model, source, native) if requested else []
    ids = tensor_ids(model)
    try:
        ref = BaseRef(
            source=source.kind,  # pyright: ignore[reportArgumentType]
            architecture=source.architecture,
            tag=source.tag,
            model_kwargs=kwargs,
            hub_id=source.hub_id,
            revision=source.revision,
            num_classes=int(model.num_classes),  # pyright: ignore[reportArgumentType]
            in_chans=in_chans or int(model.pretrained_cfg["input_size"][0]),  # pyright: ignore
            img_size=img_size,
            digest=base_digest(ids, adapted=adapted),
        )
    except ValidationError as error:
        raise BaseError(f"no artifact could name this base, {fault_of(error)}") from error
    return Base(model, ref, ids, tuple(adapted))


def build_skeleton(name: str, model_kwargs: Mapping[str, Scalar], **changes: int | None) -> nn.Module:
    """A registered model without its weights, on the meta device: names and shapes, at no cost in memory.

    Args:
        changes: num_classes, in_chans, img_size.

    Raises:
        BaseError: if it cannot be built, or the changes make it many times as large as it is.
    """
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    arguments: dict[str, Any] = dict(model_kwargs)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), SkipInit():
            model = create_timm_model(name, dict(requested), pretrained=False, **arguments)
            size = _bytes(model)
            if size <= _ALLOWANCE or set(requested) <= {"num_classes"}:  # classes are bounded by themselves
                return model
            usual = _bytes(timm.create_model(name, pretrained=False, **arguments))
    except Exception as error:  # the arguments are a stranger's: anything can happen in a constructor
        raise BaseError(f"{name} cannot be built with {arguments}: {repr(error)[:200]}") from error
    if size > _GROWTH * usual + _ALLOWANCE:
        raise BaseError(f"{name} with {requested} would take {size} bytes, usually it takes {usual}")
    return model


def save_random_weights(name: str, path: Path, model_kwargs: Mapping[str, Scalar], **changes: int | None) -> None:
    """Write the initial weights of an architecture, drawn from torch's generator as it stands, as a checkpoint.

    Args:
        changes: num_classes, in_chans, img_size.

    Raises:
        BaseError: if timm does not know it, or the file cannot be written.
    """
    if not is_model(name):
        raise BaseError(f"unknown architecture {name!r}{_did_you_mean(name)}")
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    try:
        model = create_timm_model(name, requested, pretrained=False, **dict(model_kwargs))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.detach().contiguous() for n, t in model.state_dict().items()}, path)
    except TypeError as error:
        raise BaseError(f"{name} does not take these arguments: {error}") from error
    except (OSError, SafetensorError) as error:
        raise BaseError(f"{path} could not be written: {error}") from error


def random_weights(base: Base) -> dict[str, Tensor]:
    """The state dict of a model like the base, as its architecture initializes it from torch's generator as it stands.

    Raises:
        BaseError: if timm cannot build it again.
    """
    ref = base.ref
    if ref.source == "module":
        raise BaseError(f"{ref.name} is a module of one's own: only an architecture of timm's can be drawn anew")
    changes = {"num_classes": ref.num_classes, "in_chans": ref.in_chans, "img_size": ref.img_size}
    requested: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    return create_timm_model(ref.architecture, requested, pretrained=False, **ref.model_kwargs).state_dict()


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers()))


def parse_model_kwargs(pairs: Sequence[str]) -> dict[str, Scalar]:
    """`["bn_eps=1e-3", "pad_type=same"]` → `{"bn_eps": 0.001, "pad_type": "same"}`.

    Raises:
        BaseError: for a pair without "=".
    """
    kwargs: dict[str, Scalar] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise BaseError(f"--model-kwargs takes key=value, not {pair!r}, e.g. --model-kwargs bn_eps=1e-3")
        try:
            value = json.loads(text.lower() if text in ("True", "False") else text)
        except ValueError:
            value = text
        kwargs[key] = value if isinstance(value, (bool, int, float, str)) else text
    return kwargs


def create_timm_model(name: str, requested: dict[str, Any], **arguments: Any) -> nn.Module:
    """Build a timm model with what is `requested` of num_classes, in_chans, img_size.

    Models that take images of any size have no argument img_size: it then is the data's alone, and is taken out of
    `requested`.
    """
    try:
        return timm.create_model(name, **requested, **arguments)
    except TypeError as error:
        if "img_size" not in requested or "img_size" not in str(error):
            raise
        del requested["img_size"]
        return timm.create_model(name, **requested, **arguments)


def _find(name: str, checkpoint: Path | None, revision: str | None, hub: dict[str, Any]) -> _Source:
    prefix, _, rest = name.partition(":")
    if prefix == "local-dir":
        return _find_folder(name, Path(rest), checkpoint)
    if prefix in ("hf-hub", "hf_hub"):
        repo, _, at = rest.partition("@")
        return _find_repo(repo, revision or at or None, checkpoint, hub)
    architecture, tag = split_model_name_tag(name)
    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False) if is_model(architecture) else None
    except RuntimeError:  # timm's word for an unknown tag
        cfg = None
    if cfg is None and is_model(architecture) and not tag and checkpoint is not None:
        return _Source("file", architecture, architecture, None, _existing(checkpoint))
    if cfg is None:
        raise BaseError(f"unknown model {name!r}{_did_you_mean(name)}")
    if checkpoint is not None:
        return _Source("file", architecture, architecture, None, _existing(checkpoint))
    tag = tag or cfg.tag or None
    full_name = f"{architecture}.{tag}" if tag else architecture
    if cfg.file:
        return _Source("timm", full_name, architecture, tag, _existing(Path(cfg.file)))
    if not cfg.hf_hub_id:
        raise BaseError(
            f"{full_name} has no published weights on the Hugging Face Hub: give them with "
            "--base-checkpoint FILE.safetensors, or train them with `python -m timm_jackpot.pretrain`"
        )
    hub_id = cfg.hf_hub_id.partition("@")[0]
    filename = cfg.hf_hub_filename or ""
    candidates = [filename if filename.endswith(".safetensors") else _WEIGHTS, "open_clip_model.safetensors"]
    path, commit = download(hub_id, candidates, revision=revision or cfg.hf_hub_id.partition("@")[2], **hub)
    return _Source("timm", full_name, architecture, tag, path, hub_id, commit)


def _find_folder(name: str, folder: Path, checkpoint: Path | None) -> _Source:
    config = folder / "config.json"
    if not config.is_file():
        raise BaseError(f"{folder} holds no config.json: local-dir: takes a folder as timm saves it")
    architecture, tag, args = read_saved_config(config, str(folder))
    return _Source("file", name, architecture, tag, _existing(checkpoint or folder / _WEIGHTS), model_args=args)


def _find_repo(repo: str, revision: str | None, checkpoint: Path | None, hub: dict[str, Any]) -> _Source:
    config, commit = download(repo, ["config.json"], revision=revision, **hub)
    architecture, tag, args = read_saved_config(config, repo)
    name = f"hf-hub:{repo}@{commit}"
    if checkpoint is not None:
        return _Source("file", name, architecture, tag, _existing(checkpoint), model_args=args)
    path, _ = download(repo, [_WEIGHTS], revision=commit, **hub)
    return _Source("timm", name, architecture, tag, path, repo, commit, args)


def _pixels(source: _Source) -> int | None:
    """The image size that a source's own config sets: timm writes 224, or [224, 224].

    Raises:
        BaseError: for images that are not square.
    """
    size = source.model_args.get("img_size")
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) > 1:
        raise BaseError(f"the config of {source.name} sets images of {size} pixels: an artifact names square ones only")
    return sides.pop() if sides else None


def _recordable(source: _Source) -> dict[str, Any]:
    """The model arguments of a source's own config that an artifact can name.

    Raises:
        BaseError: if it sets others: a mask searched in such a model could not be loaded again.
    """
    by_themselves = {"num_classes", "in_chans", "img_size"}
    args = {key: value for key, value in source.model_args.items() if key not in by_themselves and value is not None}
    odd = [
        key for key, value in args.items() if key not in MODEL_KWARGS or not isinstance(value, (bool, int, float, str))
    ]
    if odd:
        raise BaseError(
            f"the config of {source.name} sets the model argument {odd[0]!r}, which an artifact cannot name"
        )
    return args


def _existing(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise BaseError(f"{path} is not a .safetensors file: convert the checkpoint first (pickles are not read)")
    if not path.is_file():
        raise BaseError(f"there is no checkpoint {path}")
    return path


def _did_you_mean(name: str) -> str:
    known = timm.list_models() + timm.list_pretrained()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else ": see timm.list_models() for the names"


def _adapted(model: nn.Module, source: _Source, native: Mapping[str, Any]) -> list[str]:
    """Tensors that were initialised anew or resampled: those whose shape is not the checkpoint's own.

    The checkpoint is asked first; of a tensor that timm has renamed on the way, the architecture as it usually is.
    """
    usual = timm.create_model(source.name, pretrained=False, **native).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in usual.items()} | _shapes_in(source.weights)
    return [name for name, tensor in model.state_dict().items() if shapes.get(name) != tuple(tensor.shape)]


def _shapes_in(weights: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(weights, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _classes_of(source: _Source) -> int | None:
    """Classes of a checkpoint file's own head, which need not be the architecture's; None where that is as it is."""
    if source.kind != "file":
        return None
    cfg = get_pretrained_cfg(source.architecture)
    name = cfg.classifier if cfg is not None and isinstance(cfg.classifier, str) else None
    try:
        with safe_open(source.weights, framework="pt") as file:
            if f"{name}.weight" not in file.keys():  # noqa: SIM118
                return None
            classes = next(iter(file.get_slice(f"{name}.weight").get_shape()), 0)
    except (SafetensorError, OSError) as error:
        raise BaseError(f"{source.weights.name} is no readable safetensors file: {error}") from error
    if not 1 <= classes <= MAX_CLASSES:
        raise BaseMismatchError(f"{source.weights.name} has a head of {classes} classes: 1 to {MAX_CLASSES} can be")
    return None if cfg is None or classes == cfg.num_classes else classes


def _explain(source: _Source, arguments: Mapping[str, Any], error: Exception) -> BaseError:
    """Turn a failed load into one sentence that names the first differing tensor."""
    try:
        found = _shapes_in(source.weights)
    except SafetensorError as damage:
        return BaseError(f"{source.weights.name} is no readable safetensors file: {damage}")
    try:
        with torch.random.fork_rng(devices=[]):
            expected = timm.create_model(source.name, pretrained=False, **arguments).state_dict()
    except Exception as build_error:
        return BaseError(f"{source.architecture} cannot be built: {build_error or type(build_error).__name__}")
    what = f"{source.weights.name} does not fit {source.architecture}"
    for name, tensor in expected.items():
        if name not in found and not name.endswith("num_batches_tracked"):
            return BaseMismatchError(f"{what}: it has no tensor {name} (expected shape {tuple(tensor.shape)})")
        if name in found and found[name] != tuple(tensor.shape):
            return BaseMismatchError(f"{what}: {name} has shape {found[name]}, expected {tuple(tensor.shape)}")
    extra = next((name for name in found if name not in expected), None)
    if extra:
        return BaseMismatchError(f"{what}: it holds a tensor {extra} that the model has not")
    return BaseError(f"{source.architecture} cannot be loaded: {error}")
