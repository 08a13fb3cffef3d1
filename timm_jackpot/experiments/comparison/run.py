"""`compare_masks`: artifacts, criteria and methods side by side, on the terminal and in files."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, model_validator
from typing_extensions import Self

from timm_jackpot.criteria import criterion_names
from timm_jackpot.data import DataFlags
from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments.comparison.columns import Column, artifact_columns, criterion_columns
from timm_jackpot.experiments.comparison.methods import method_columns
from timm_jackpot.experiments.comparison.pairs import Pair, pairs_of
from timm_jackpot.experiments.comparison.table import as_csv, as_markdown, as_text, sections_of
from timm_jackpot.experiments.parts import Part, PartFlags
from timm_jackpot.methods import method_names
from timm_jackpot.plots import overlap_figure
from timm_jackpot.runtime.outputs import check_output, write_atomically
from timm_jackpot.runtime.processes import launched_as_main
from timm_jackpot.schema import Command, OneOf


class CompareConfig(PartFlags, DataFlags):
    """Compare artifacts side by side: base, settings, sparsity per layer, overlap and chance, results, audit. Methods
    can be added; they run on the task of the first artifact (same base, data, sparsity and number of steps)."""

    group: ClassVar[str] = "Options"
    command: ClassVar[Command | None] = Command(
        "compare",
        (
            "my_jackpot another_jackpot",
            "my_jackpot --criteria magnitude random --output comparison",
            "my_jackpot --methods paper snip dense    # run on the artifact's own task",
        ),
        basic=("artifacts", "criteria", "methods", "base_checkpoint", "dataset", "data_dir", "seed", "output"),
    )

    artifacts: tuple[str, ...] = Field(default=(), json_schema_extra={"positional": True})
    """Artifact folders, or names of Hub repos. Masks over different weights are shown without overlap."""
    criteria: tuple[Annotated[str, OneOf(partial(criterion_names, without_images=True))], ...] = ()
    """Also compare with masks of these criteria, at the layer counts of the first artifact."""
    methods: tuple[Annotated[str, OneOf(method_names)], ...] = ()
    """Methods to run on the task of the first artifact, with their default settings at its sparsity, allocation and
    steps. Data flags other than --dataset, --data-dir and the splits default to those of its search."""
    base_checkpoint: str | None = None
    """The base's .safetensors file, if the base came from a file. Only criteria, methods and compact masks need it."""
    trust_base: bool = False
    """Allow a base from outside timm's own Hub repos."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the random criterion and of methods."""
    output: str | None = None
    """Folder for comparison.md, layers.csv and overlap.png, and for what methods found, so that none is run again."""

    @model_validator(mode="after")
    def _parts_share_methods(self) -> Self:
        if self.part is not None and (self.output is None or not self.methods):
            raise ConfigError("--part divides --methods among jobs that share one --output: give both")
        return self


class MaskComparison(NamedTuple):
    table: str
    summary: dict[str, Any]  # what the verb prints as its last line


def compare_masks(config: CompareConfig) -> MaskComparison:
    """Read and compare artifacts; write files if `config.output` is given.

    A part only runs its share of the methods; a run without --part writes the files.

    Raises:
        ConfigError: for fewer than two things to compare, for criteria or methods with artifacts of different bases, or
            if the output cannot be written or holds methods run with other settings.
        JackpotError: if an artifact, or a base that is needed, cannot be used.
    """
    if not config.artifacts or len(config.artifacts) + len(config.criteria) + len(config.methods) < 2:
        raise ConfigError(
            "name two artifacts to compare, or one artifact and, for example, --criteria magnitude or --methods paper"
        )
    folder = None if config.output is None else check_output(config.output)
    where = {"base_checkpoint": config.base_checkpoint, "trust_base": config.trust_base}
    columns, artifacts = artifact_columns(config.artifacts, **where)
    columns += criterion_columns(config.criteria, columns, artifacts[0], seed=config.seed, **where)
    names, part = list(dict.fromkeys(config.methods)), Part.of(config.part)
    ran = method_columns(names, columns, artifacts[0], config, seed=config.seed, folder=folder, part=part, **where)
    columns += ran.columns
    pairs = pairs_of(columns)
    sections = sections_of(columns, pairs)
    summary = _summary(columns, pairs)
    if part.count > 1:  # two that end at once would write the same files
        return MaskComparison(as_text(sections), {**summary, "left_to_other_parts": ran.left})
    if folder is not None and launched_as_main():
        files = {
            "comparison.md": as_markdown(sections).encode(),
            "layers.csv": as_csv(columns, pairs).encode(),
        }
        beside = {pair.b: pair.layers for pair in pairs if pair.a == columns[0].name and pair.layers}
        if beside and find_spec("matplotlib"):
            files["overlap.png"] = overlap_figure(columns[0].name, beside)
        for name, content in files.items():
            write_atomically(folder / name, content)
    return MaskComparison(as_text(sections), summary)


def _summary(columns: list[Column], pairs: list[Pair]) -> dict[str, Any]:
    return {
        "compared": [
            {
                "name": column.name,
                "base": column.base,
                "allocation": column.allocation,
                "recipe": column.recipe,
                "sparsity": column.masks.sparsity,
                "mask_hash": column.masks.hash(),
                "bytes_by_kind": column.bytes_by_kind,
                "dataset": column.dataset,
                **column.results,
                "verdict": column.verdict,
                "controls": column.controls,
            }
            for column in columns
        ],
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                "overlap": pair.overlap,
                "chance": pair.chance,
                "why_not": pair.why_not,
                "layers": {name: layer._asdict() for name, layer in pair.layers.items()},
            }
            for pair in pairs
        ],
    }
