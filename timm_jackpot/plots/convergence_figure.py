"""Several searches in one picture: held-out accuracy over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from timm_jackpot.plots.style import finish, new_figure, series, to_png
from timm_jackpot.training import Record


def convergence_figure(records: Mapping[str, Sequence[Record]]) -> bytes | None:
    """Held-out top-1 over the steps, one line for each name, the mean of its records; as a PNG.

    Returns None where no record holds two validations: nothing converges there.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    lines: dict[str, dict[int, list[float]]] = {}
    for name, runs in records.items():
        for event in (event for run in runs for event in run.of("validation")):
            lines.setdefault(name, {}).setdefault(event["step"], []).append(event["top1"])
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    figure = new_figure(7, 4.2)
    plot = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        steps = sorted(points)
        plot.plot(steps, [mean(points[step]) for step in steps], label=name, **series(i))
    plot.set_xlabel("step")
    plot.set_ylabel("top-1 on held-out images (%)")
    finish(plot)
    return to_png(figure)
