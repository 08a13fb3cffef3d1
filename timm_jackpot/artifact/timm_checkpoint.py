"""A plain model as timm keeps one in a folder or a Hub repo: model.safetensors and config.json."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import save
from timm.models._hub import save_config_for_hf
from torch import nn


def timm_checkpoint(model: nn.Module) -> dict[str, bytes]:
    """The files that `timm.create_model("local-dir:FOLDER")` reads, by name."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config))
        return {"model.safetensors": save(state, metadata={"format": "pt"}), "config.json": config.read_bytes()}
