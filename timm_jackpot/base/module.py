"""`base_from_module`: use any torch module as a base, without timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from torch import nn

from timm_jackpot.base.load import Base
from timm_jackpot.base.ref import BaseRef
from timm_jackpot.base.tensors import base_digest, tensor_ids
from timm_jackpot.errors import BaseError
from timm_jackpot.schema import fault_of


def base_from_module(
    model: nn.Module,
    name: str,
    *,
    num_classes: int,
    input_size: Sequence[int] = (3, 224, 224),
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    classifier: str | Sequence[str] = (),
    new_head: bool = False,
) -> Base:
    """Use any pre-trained module (from torchvision, or your own) as a base.

    The arguments describe what a timm model would know about itself; they are stored as in timm, in
    `model.pretrained_cfg` and `model.num_classes`. Loading the artifact takes the same module:
    `from_pretrained(…, base=module)`.

    Args:
        model: the module with its trained weights; it maps images [b, c, h, w] to logits [b, num_classes].
        name: its name in the artifact: letters, digits and underscores.
        input_size: channels, height and width of its images.
        mean, std: normalization of each channel.
        classifier: name of its last layer (or layers), which stays dense: `fc`, `heads.head`.
        new_head: whether the classifier is new and untrained. A search then trains and stores it.

    Raises:
        BaseError: if the module has no such classifier, a new head has no parameters, or an artifact cannot hold the
            name or sizes.
    """
    named = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    modules = dict(model.named_modules())
    missing = next((layer for layer in named if layer not in modules), None)
    if missing is not None:
        raise BaseError(f"the module has no layer {missing!r} to be its classifier")
    head = {id(parameter) for layer in named for parameter in modules[layer].parameters()}
    if new_head and not head:
        raise BaseError("new_head needs the name of the new layer, such as classifier='fc'")
    adapted = [name for name, p in model.named_parameters() if new_head and id(p) in head]
    ids = tensor_ids(model)
    try:
        ref = BaseRef(
            source="module",
            architecture=name,
            tag=None,
            model_kwargs={},
            hub_id=None,
            revision=None,
            num_classes=num_classes,
            in_chans=input_size[0],
            img_size=None,
            digest=base_digest(ids, adapted=adapted),
        )
    except ValidationError as error:
        raise BaseError(f"an artifact cannot describe this base, {fault_of(error)}") from error
    described: dict[str, Any] = {
        "input_size": tuple(input_size),
        "mean": tuple(mean),
        "std": tuple(std),
        "num_classes": num_classes,
        "classifier": named,
        "source": "module",
    }
    model.pretrained_cfg = described  # pyright: ignore[reportArgumentType]
    model.num_classes = num_classes  # pyright: ignore[reportArgumentType]
    return Base(model.eval(), ref, ids, tuple(adapted))
