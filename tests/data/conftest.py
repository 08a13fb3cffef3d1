"""Folders and tar files of made-up images."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import open_folder, small_net, write_split

from timm_jackpot.data.loader import LoaderImages


@pytest.fixture(params=["folder", "tar"])
def images_32(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_split(tmp_path, "train", size=32, per_class=10, tar=request.param == "tar")
    write_split(tmp_path, "test", size=32, per_class=3, tar=request.param == "tar")
    return tmp_path


@pytest.fixture(params=["folder", "tar"])
def images_100(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_split(tmp_path, "train", size=100, per_class=6, tar=request.param == "tar")
    write_split(tmp_path, "test", size=100, per_class=2, tar=request.param == "tar")
    return tmp_path


@pytest.fixture
def loaded(images_100: Path) -> LoaderImages:
    source = open_folder(images_100, small_net(size=96), workers=0, val_fraction=0.25).train
    assert isinstance(source, LoaderImages)
    return source
