"""Published figures: what a paper reports of the cells of a sweep, and of methods that the sweep does not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Annotated, Any

from pydantic import Field, ValidationError

from timm_jackpot.errors import ConfigError
from timm_jackpot.experiments import markdown_table, mean_std
from timm_jackpot.experiments.sweeps.plan import GridPoint
from timm_jackpot.recipes import read_recipe
from timm_jackpot.schema import Document, fault_of
from timm_jackpot.search import SearchConfig

_HEAD = ["published", "settings", "top-1 here", "drop from dense", "top-1 published", "drop from dense", "source"]


class PublishedFigure(Document):
    """One figure of a paper."""

    cell: dict[str, Any]
    """The settings of the cell that it stands beside; there has to be exactly one, else ours is not shown."""
    method: Annotated[str, Field(min_length=1)] | None = None
    """Another method than the paper's own; it stands beside a cell only if the settings name ours."""
    top1: float = Field(ge=0, le=100)
    std: float | None = Field(default=None, ge=0, le=100)
    dense: float | None = Field(default=None, ge=0, le=100)
    """Top-1 of the dense network."""
    source: str = Field(min_length=1)


def published_figures(recipe: str) -> list[PublishedFigure]:
    """What `published` in a recipe says: source, and rows of figures.

    Raises:
        ConfigError: if it is malformed.
    """
    found = read_recipe(recipe)
    if "published" not in found:
        return []
    found = found["published"]
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"in the recipe {recipe}, published must have a source, and rows: a list of mappings")
    shared = {key: value for key, value in found.items() if key != "rows"}
    try:
        figures = [PublishedFigure(**{**shared, **row}) for row in rows]
    except ValidationError as error:
        raise ConfigError(f"in the recipe {recipe}, published is not valid, {fault_of(error)}") from error
    if unknown := sorted({key for figure in figures for key in figure.cell} - SearchConfig.model_fields.keys()):
        raise ConfigError(f"in the recipe {recipe}, published names the unknown setting {unknown[0]}: correct its name")
    return figures


def published_table(
    figures: Sequence[PublishedFigure], cells: Sequence[GridPoint], rows: Sequence[Mapping[str, Any]]
) -> str:
    """Our figures beside the published ones, both with their drop from dense; "" if nothing is published.

    Args:
        rows: of the runs, with cell, jackpot_top1 and dense_top1; or top1, of tickets.
    """
    if not figures:
        return ""
    lines = [_line(figure, [row for row in rows if row["cell"] == _cell_of(figure, cells)]) for figure in figures]
    return "\n**Published figures**\n\n" + markdown_table(_HEAD, lines)


def published_rows(figures: Sequence[PublishedFigure]) -> list[dict[str, Any]]:
    """The published figures as lines of the csv table."""
    return [
        {
            "cell": "published",
            **figure.cell,
            "published_method": figure.method or "the paper's own",
            "published_top1": figure.top1,
            "published_std": figure.std,
            "published_dense_top1": figure.dense,
            "source": figure.source,
        }
        for figure in figures
    ]


def _line(figure: PublishedFigure, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ours = [row.get("jackpot_top1", row.get("top1")) for row in rows]
    dense = [row["dense_top1"] for row in rows if row.get("dense_top1") is not None]
    spread = "" if figure.std is None else f" ± {figure.std:.2f}"
    return [
        figure.method or "the paper's own",
        ", ".join(f"{key} {value}" for key, value in figure.cell.items()),
        mean_std(ours, count=True) if ours else "not run here",
        f"{mean(ours) - mean(dense):+.2f}" if ours and dense else "–",
        f"{figure.top1:.2f}{spread}",
        "–" if figure.dense is None else f"{figure.top1 - figure.dense:+.2f}",
        figure.source,
    ]


def _cell_of(figure: PublishedFigure, cells: Sequence[GridPoint]) -> str | None:
    """The name of the one cell with these settings; None if there is none, or several."""
    if figure.method is not None and "method" not in figure.cell:
        return None
    found = [cell.name for cell in cells if all(_has(cell, key, value) for key, value in figure.cell.items())]
    return found[0] if len(found) == 1 else None


def _has(cell: GridPoint, key: str, value: Any) -> bool:
    own = getattr(next(iter(cell.searches.values())), key, None)
    try:
        return float(own) == float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return str(own) == str(value)
