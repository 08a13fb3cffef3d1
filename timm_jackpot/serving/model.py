"""`JackpotModel`: one backbone in memory, any number of jackpots on it, with PEFT's verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from timm_jackpot.artifact import (
    Config,
    check_skeleton,
    check_weight_count,
    load_dense_base,
    locate_artifact,
    read_artifact,
    read_config,
)
from timm_jackpot.base import Base, tensor_ids
from timm_jackpot.errors import BaseMismatchError, ServingError
from timm_jackpot.masks.patterns import nearest
from timm_jackpot.serving.backbone import Backbone, StoredAdapter
from timm_jackpot.serving.fair_lock import FairLock


class JackpotModel(nn.Module):
    """One base in memory, a working copy of it, and named jackpots (adapters), one of them active at a time.

    Logits equal those of `from_pretrained` for the active adapter, bit for bit, or those of the dense base if none is
    active. A switch writes weights, norm statistics, head and data config into the working copy; a failed switch
    changes nothing. Each additional adapter takes one bit per masked weight, plus the tensors that changed.

    Attributes of the active model are available here too (`num_classes`, `pretrained_cfg`, `forward_features`, …).
    `.model` is the plain timm module: one object per number of classes, on the same weights. It cannot be trained.

    Forwards may run concurrently in any threads; calls that change the model wait for running forwards, and later
    forwards wait for them. Forwards called on `.model` or its parts are not tracked. Using a name that is taken or not
    loaded, or changing the model from within a forward (in a hook), raises a `ServingError`.

    Args:
        base: as returned by `load_base`; do not change it afterwards.
        built: False for a module of your own.
    """

    model: nn.Module

    def __init__(self, base: Base, *, built: bool = True) -> None:
        super().__init__()
        self._backbone = Backbone(base, built=built)
        self._adapters: dict[str, StoredAdapter] = {}
        self._lock = FairLock()
        self._put(None)
        self.training = False

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls,
        repo_or_dir: str | Path,
        adapter_name: str = "default",
        *,
        base_checkpoint: str | Path | None = None,
        base: nn.Module | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        trust_base: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> JackpotModel:
        """Load an artifact with its base and make it active. Arguments and errors: as `timm_jackpot.from_pretrained`.

        Do not change a `base` that you pass in afterwards.
        """
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        trust: dict[str, Any] = {"base_checkpoint": base_checkpoint, "trust_base": trust_base}
        check = partial(check_skeleton, **trust) if base is None else partial(check_weight_count, model=base)
        folder = locate_artifact(repo_or_dir, revision=revision, check=check, **hub)
        check(config := read_config(folder))
        if base is None:
            model = cls(load_dense_base(config, **trust, **hub))
        else:
            model = cls(Base(base, config.base, tensor_ids(base), ()), built=False)
        model.load_adapter(folder, adapter_name)
        model.set_adapter(adapter_name)
        return model.to(device=device, dtype=dtype)

    @property
    def adapter_names(self) -> list[str]:
        """Names of the adapters in memory, in loading order."""
        return list(self._adapters)

    @property
    def active_adapter(self) -> str | None:
        """Name of the active adapter; None: the dense base is active."""
        return self._active

    def load_adapter(
        self,
        repo_or_dir: str | Path,
        adapter_name: str | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Add a jackpot of the same base (None: named "default"). The active adapter does not change; forwards may run.

        Arguments and errors: as `timm_jackpot.from_pretrained`.
        """
        name = "default" if adapter_name is None else adapter_name
        self._check_free(name)
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}

        def check(config: Config) -> None:
            try:
                self._backbone.check(config)
            except BaseMismatchError as error:
                raise BaseMismatchError(f"{repo_or_dir} cannot be loaded as {name!r}: {error}") from error

        folder = locate_artifact(repo_or_dir, revision=revision, check=check, **hub)
        adapter = self._backbone.store(read_artifact(folder, check=check))
        if self._adapters.setdefault(name, adapter) is not adapter:  # another thread was faster
            self._check_free(name)

    def set_adapter(self, adapter_name: str | None) -> None:
        """Make a loaded adapter the active one; None: the dense base."""
        with self._lock.hold(exclusive="set_adapter()"):
            self._switch(adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """`with model.disable_adapter():` the dense base is active in all threads, then the same adapter as before."""
        with self._lock.hold(exclusive="disable_adapter()"):
            before = self._active
            self._switch(None)
        try:
            yield
        finally:
            with self._lock.hold(exclusive="the end of disable_adapter()"):
                self._switch(before if before in self._adapters else None)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. If it was active, the dense base becomes active (PEFT would choose another adapter)."""
        with self._lock.hold(exclusive="delete_adapter()"):
            self._check_known(adapter_name)
            if adapter_name == self._active:
                self._switch(None)
            del self._adapters[adapter_name]
            self._backbone.keep_heads({adapter.num_classes for adapter in self._adapters.values()})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The active adapter's forward: images [b, c, h, w] → logits [b, classes]."""
        with self._lock.hold():
            return self.model(*args, **kwargs)

    @torch.inference_mode()
    def predict(self, x: Tensor, adapter_names: Sequence[str | None]) -> Tensor | list[Tensor]:
        """Run each image through its own adapter, with one forward per adapter; the active adapter does not change.

        Args:
            x: images [b, c, h, w] on the model's device.
            adapter_names: one for each image; None for the dense base.

        Returns:
            Logits [b, classes]; if the heads differ in width, a list of b tensors [classes].

        Raises:
            ServingError: also if the number of names is not b, or if there are no images.
        """
        if len(adapter_names) != len(x) or not len(x):
            n = len(adapter_names)
            raise ServingError(
                f"predict needs at least one image and one name per image, but got {len(x)} images and {n} names"
            )
        with self._lock.hold():
            self._check_known(*(name for name in adapter_names if name is not None))
            if set(adapter_names) == {self._active}:
                return self.model(x)
        with self._lock.hold(exclusive="predict()"):
            before, rows = self._active, dict[int, Tensor]()
            try:
                for name in sorted(dict.fromkeys(adapter_names), key=lambda name: name != before):
                    self._switch(name)
                    chosen = [i for i, other in enumerate(adapter_names) if other == name]
                    rows.update(zip(chosen, self.model(x[chosen]), strict=True))
            finally:
                self._switch(before)
        logits = [rows[i] for i in range(len(x))]
        return torch.stack(logits) if len({row.shape for row in logits}) == 1 else logits

    def train(self, mode: bool = True) -> JackpotModel:
        if mode:
            raise ServingError(
                "a JackpotModel cannot be trained: load a single jackpot with timm_jackpot.from_pretrained"
            )
        return super().train(False)

    def extra_repr(self) -> str:
        return f"adapter_names={self.adapter_names}, active_adapter={self._active!r}"

    def __getattr__(self, name: str) -> Any:
        """Attributes of the active model; calls of its `forward_…` methods are tracked as forwards."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
        found = getattr(self.model, name)
        if not (name.startswith("forward_") and callable(found)):
            return found

        @wraps(found)
        def forward(*args: Any, **kwargs: Any) -> Any:
            with self._lock.hold():
                return getattr(self.model, name)(*args, **kwargs)

        return forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> JackpotModel:
        with self._lock.hold(exclusive="moving or converting the model"):
            self._backbone.convert(fn)
            return self

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise ServingError("a JackpotModel cannot load a state dict: use load_adapter(folder, name) to add a jackpot")

    def _check_free(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ServingError(f"an adapter's name must be a non-empty string, not {name!r}")
        if name in self._adapters:
            raise ServingError(
                f"an adapter {name!r} is already loaded: choose another name, or call delete_adapter first"
            )

    def _check_known(self, *names: str) -> None:
        for name in names:
            if name not in self._adapters:
                raise ServingError(f"no adapter {name!r} is loaded: {nearest(str(name), self._adapters)}")

    def _switch(self, name: str | None) -> None:
        if name is not None:
            self._check_known(name)
        if name == (before := self._active):
            return
        try:
            self._put(name)
        except BaseException:
            self._put(before)
            raise

    def _put(self, name: str | None) -> None:
        self.model = self._backbone.write(None if name is None else self._adapters[name])
        self._active = name
