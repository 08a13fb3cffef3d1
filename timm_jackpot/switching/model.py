"""`JackpotModel`: one backbone in memory, any number of jackpots on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from timm_jackpot.artifact import (
    Artifact,
    Config,
    check_magnitude,
    check_skeleton,
    load_dense_base,
    locate_artifact,
    read_artifact,
)
from timm_jackpot.base import Base, tensor_ids
from timm_jackpot.errors import BaseMismatchError, SwitchError
from timm_jackpot.patterns import nearest
from timm_jackpot.switching.backbone import Backbone
from timm_jackpot.switching.held import Held
from timm_jackpot.switching.turns import Turns
from timm_jackpot.switching.working_copy import WorkingCopy


class JackpotModel(nn.Module):
    """One base in memory, a working copy of it, and jackpots by name, of which one at a time is active.

    Logits are those of `from_pretrained` for the active jackpot, bit for bit, or those of the dense base while none is.
    A switch writes w = w_base ⊙ mask into the working copy, layer by layer, and the jackpot's other tensors; head,
    norm statistics and data config go along. The base copy is never written to. Each further jackpot takes its packed
    mask (one bit per weight) and those tensors.

    What the model at work has, this one has too (`num_classes`, `pretrained_cfg`, `forward_features`, …); the plain
    timm module is `.model`, the same one for good: only a head of another number of classes is a new one each time.

    It serves and does not train: always in eval mode, nothing requires a gradient, `load_state_dict` is refused.
    `state_dict()` is that of the working copy as it is. `.to(…)` moves or converts both copies.

    Threads may run forwards together. What writes to the working copy (`set`, `disable`, `unload`, `.to`, a `predict`
    that switches) is refused while a forward runs, and so is `load`; a forward that comes during a switch waits for it.
    Forwards of `.model` itself, and of hooked parts of it, are not seen.
    """

    model: nn.Module

    def __init__(self, base: Base, *, built: bool = True) -> None:
        """A dense model without jackpots.

        Args:
            base: as from `load_base`; its model becomes the base copy.
            built: False for a module of your own.
        """
        super().__init__()
        self._backbone = Backbone(base, built=built)
        self._jackpots: dict[str, Held] = {}
        self._active: str | None = None
        self._turns = Turns()
        self._half_converted = False
        self._working = WorkingCopy(self._backbone)
        self.model = self._working.model
        self.training = False

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls,
        first: str | Path,
        *,
        name: str = "default",
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
        """Load a first jackpot with its base, and make it active.

        Args:
            first: an artifact folder, or the name of a Hub repo (`user/name`).
            name: what to call it.
            base: a module to use as the base instead; it becomes the base copy, and must not be changed any more.
            base_checkpoint, revision, token, cache_dir, local_files_only, trust_base, device, dtype: as in
                `timm_jackpot.from_pretrained`.

        Raises:
            ArtifactError, BaseMismatchError, BaseError, HubError: as `timm_jackpot.from_pretrained`.
        """
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}

        def check(config: Config) -> None:
            if base is None:
                check_skeleton(config, base_checkpoint, trust_base)
            else:
                check_magnitude(config, base)

        artifact = read_artifact(locate_artifact(first, revision=revision, check=check, **hub), check=check)
        if base is None:
            loaded = load_dense_base(artifact.config, base_checkpoint=base_checkpoint, trust_base=trust_base, **hub)
        else:
            loaded = Base(base, artifact.config.base, tensor_ids(base), ())
        model = cls(loaded, built=base is None)
        model._backbone.check(artifact.config)
        model._add(name, artifact)
        model.set(name)
        return model.to(device=device, dtype=dtype)

    @property
    def names(self) -> list[str]:
        """Names of the jackpots in memory, in the order in which they were loaded."""
        return list(self._jackpots)

    @property
    def active(self) -> str | None:
        """Name of the jackpot that answers; None: the dense base does."""
        return self._active

    def load(
        self,
        name: str,
        repo_or_dir: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Add a jackpot of the same base; the active one stays active.

        Args:
            name: what to call it.
            repo_or_dir: an artifact folder, or the name of a Hub repo (`user/name`).
            revision, token, cache_dir, local_files_only: as in huggingface_hub.

        Raises:
            SwitchError: if the name is taken or empty, or a forward is running.
            BaseMismatchError: it was made on another base.
            ArtifactError, HubError: as `timm_jackpot.from_pretrained`.
        """
        with self._turns.alone(f"load({name!r})"):
            self._check_free(name)

        def check(config: Config) -> None:
            try:
                self._backbone.check(config)
            except BaseMismatchError as error:
                raise BaseMismatchError(f"{repo_or_dir} cannot be loaded as {name!r}: {error}") from error

        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        # Forwards may run meanwhile: a download takes its time, and nothing that they read is written to.
        self._add(name, read_artifact(locate_artifact(repo_or_dir, revision=revision, check=check, **hub), check=check))

    def set(self, name: str) -> None:
        """Make a loaded jackpot the active one.

        Raises:
            SwitchError: if there is none of that name, or a forward is running.
        """
        with self._turns.alone(f"set({name!r})"):
            self._check_known(name)
            self._switch(name)

    def disable(self) -> ExitStack:
        """Make the dense base answer; after `with model.disable():` the active jackpot is active again.

        Raises:
            SwitchError: if a forward is running.
        """
        before = ExitStack()
        with self._turns.alone("disable()"):
            if self._active is not None:
                before.callback(self.set, self._active)
            self._switch(None)
        return before

    def unload(self, name: str) -> None:
        """Forget a jackpot. Where it was the active one, the dense base answers (PEFT would choose another adapter).

        Raises:
            SwitchError: if there is none of that name, or a forward is running.
        """
        with self._turns.alone(f"unload({name!r})"):
            self._check_known(name)
            if name == self._active:
                self._switch(None)
            del self._jackpots[name]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The active jackpot's forward: images [b, c, h, w] → logits [b, classes]."""
        with self._turns.forward():
            self._check_whole()
            return self.model(*args, **kwargs)

    @torch.inference_mode()
    def predict(self, x: Tensor, names: Sequence[str | None]) -> Tensor | list[Tensor]:
        """Each sample through the jackpot of its own: one forward per jackpot, the samples' order kept.

        The active jackpot is the same afterwards, also after an error. Other threads' forwards wait until all is done.

        Args:
            x: images [b, c, h, w] on the model's device.
            names: for each sample the name of its jackpot; None for the dense base.

        Returns:
            Logits [b, classes]; where the jackpots asked have heads of different widths, a list of b tensors [classes].

        Raises:
            SwitchError: for a name that is not loaded, a number of names other than b, or no sample at all; and where a
                switch is needed, while a forward is running.
        """
        if len(names) != len(x) or not len(x):
            raise SwitchError(f"predict takes one name for each sample, and at least one: {len(x)}, {len(names)} names")
        asked = [name for name in names if name is not None]
        with self._turns.forward():
            self._check_whole()
            self._check_known(*asked)
            if set(names) == {self._active}:
                return self.model(x)
        with self._turns.alone("predict()"):
            self._check_known(*asked)  # one may have been unloaded meanwhile
            return self._routed(x, names)

    def train(self, mode: bool = True) -> JackpotModel:
        """
        Raises:
            SwitchError: for anything but eval mode.
        """
        if mode:
            raise SwitchError("a JackpotModel serves: to train, load the one jackpot with timm_jackpot.from_pretrained")
        return super().train(False)

    def extra_repr(self) -> str:
        return f"names={self.names}, active={self._active!r}"

    def __getattr__(self, name: str) -> Any:
        """The model's own, where this one has none. Its other forwards count as forwards."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
        found = getattr(self.model, name)
        return self._counted(found) if name.startswith("forward_") and callable(found) else found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> JackpotModel:
        with self._turns.alone("moving or converting the model"):
            active = self._active
            self._switch(None)  # both copies are of one form then, with the heads that they came with
            before = self._forms()
            try:
                self._backbone.model._apply(fn, recurse)
                super()._apply(fn, recurse)
            except BaseException:
                self._half_converted = self._forms() != before
                if not self._half_converted:
                    self._switch(active)
                raise
            self._switch(active)
            return self

    def _forms(self) -> list[tuple[torch.dtype, torch.device]]:
        state = [*self._backbone.model.state_dict().values(), *self.model.state_dict().values()]
        return [(tensor.dtype, tensor.device) for tensor in state]

    def _load_from_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise SwitchError(
            "a JackpotModel takes no state dict, its weights are the base's: load(name, folder) adds a jackpot"
        )

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._turns.forward():
                return method(*args, **kwargs)

        return counted

    def _routed(self, x: Tensor, names: Sequence[str | None]) -> Tensor | list[Tensor]:
        samples: dict[str | None, list[int]] = {self._active: []} if self._active in names else {}
        for i, name in enumerate(names):
            samples.setdefault(name, []).append(i)
        logits: dict[int, Tensor] = {}
        before = self._active
        try:
            for name, chosen in samples.items():
                self._switch(name)
                logits |= zip(chosen, self.model(x[chosen]), strict=True)
        finally:
            self._switch(before)
        rows = [logits[i] for i in range(len(names))]
        return torch.stack(rows) if len({row.shape for row in rows}) == 1 else rows

    def _add(self, name: str, artifact: Artifact) -> None:
        self._check_free(name)
        held = Held.of(artifact, self._backbone.masks_of(artifact))
        if self._jackpots.setdefault(name, held) is not held:  # another thread was faster
            self._check_free(name)

    def _check_free(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise SwitchError(f"a jackpot's name is a string that is not empty, not {name!r}")
        if name in self._jackpots:
            raise SwitchError(f"there is a jackpot {name!r} already: choose another name, or unload({name!r}) first")

    def _check_known(self, *names: str) -> None:
        for name in names:
            if name not in self._jackpots:
                raise SwitchError(f"no jackpot {name!r} is loaded: {nearest(str(name), self._jackpots)}")

    def _held(self, name: str | None) -> Held:
        return self._backbone.dense if name is None else self._jackpots[name]

    def _check_whole(self) -> None:
        if self._half_converted:
            raise SwitchError("an earlier .to() failed half-way, and left tensors of two kinds: load the model anew")

    def _switch(self, name: str | None) -> None:
        self._check_whole()
        if name == self._active:
            return
        active, self._active = name, None  # what is left by a switch that fails
        self._working.wear(self._held(active))
        self._active = active
