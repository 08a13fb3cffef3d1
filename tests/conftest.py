"""What all tests share: fixed seeds, few threads, a digits base, and the images that lie beside the repository."""

from __future__ import annotations

import os

# Read when torch is loaded, here and in the processes that tests start. Tests run on all cores already; threads that
# spin for each other on busy ones make tiny models many times slower.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

import gc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from timm_jackpot.base import Base, load_base
from timm_jackpot.data.digits import digits_split
from timm_jackpot.runtime.processes import make_accelerator

FEW_DIGITS = {"train": 320, "test": 120}
_SAVEFIG = Figure.savefig

settings.register_profile("tests", deadline=None, max_examples=50, derandomize=True, database=None)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-coverage", action="store_true", help="write what is found to hubcards/COVERAGE.md")


def pytest_configure(config: pytest.Config) -> None:
    # timm's readers of image folders and tar files leave files open until the garbage collector comes by.
    config.addinivalue_line("filterwarnings", "ignore:unclosed file <_io.BufferedReader:ResourceWarning")


@pytest.fixture(scope="session", autouse=True)
def _fast_collections() -> None:
    """Accelerate collects garbage after every run: what has been imported need not be looked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _blank_pictures() -> Iterator[None]:
    """Figures are composed, but not drawn, which takes a third of a short search: see `drawn_pictures`."""

    def save(figure: Figure, file: BytesIO, **options: Any) -> None:
        Image.new("RGB", (1, 1)).save(file, "png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="module")
def few_digits() -> Iterator[None]:
    """Fewer of them: a short search spends most of its time in its five evaluations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm_jackpot.data.read.digits_split", _first_digits)
        yield


def _first_digits(split: str, name: str) -> tuple[Tensor, Tensor]:
    images, labels = digits_split(split, name)
    return images[: FEW_DIGITS[split]], labels[: FEW_DIGITS[split]]


@pytest.fixture
def drawn_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at pictures."""
    monkeypatch.setattr(Figure, "savefig", _SAVEFIG)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    set_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder of real images and weights beside the repository."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here")
    return folder


@pytest.fixture
def digits_base() -> Base:
    """The bundled base, loaded afresh: a test may do to it what it likes."""
    return load_base("digits_resnet")


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    """A single-process accelerator on the CPU; Accelerate's global state is forgotten before and after."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    yield make_accelerator(seed=0)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
