"""WebDataset's tar shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from one_epoch import one_epoch
from pictures import equal, open_folder, picture, raises_data_error, small_net, write_split

from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.runtime.processes import Shard

Sample = tuple[str, bytes, str | None]


def png(label: int, number: int, size: int) -> bytes:
    file = io.BytesIO()
    picture(label, number, size).save(file, "png")
    return file.getvalue()


def write_shard(path: Path, samples: Sequence[Sample]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, image, label in samples:
            for name, content in ((f"{key}.png", image), (f"{key}.cls", None if label is None else label.encode())):
                if content is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def samples(size: int, per_class: int) -> list[Sample]:
    return [(f"./{c}_{n}", png(c, n, size), f"{c}\n") for c in range(2) for n in range(per_class)]


@pytest.mark.parametrize("size", [32, 160], ids=["in memory", "by workers"])
def test_shards_are_the_folders_with_the_same_images(size: int, tmp_path: Path) -> None:
    for split, per_class in (("train", 10), ("test", 3)):
        write_split(tmp_path / "folders", split, size=size, per_class=per_class)
        whole = samples(size, per_class)
        for shard, part in enumerate((whole[:4], whole[4:])):
            write_shard(tmp_path / "shards" / split / f"{shard:04d}.tar", part)
    network = small_net(size=size)
    folders, shards = (open_folder(tmp_path / name, network, val_fraction=0) for name in ("folders", "shards"))
    assert isinstance(shards.train, LoaderImages) == (size == 160)
    assert len(shards.train) == 20
    for rank in range(3):
        shard = Shard(rank, 3)
        assert equal(
            one_epoch(folders.train, seed=1, epoch=2, batch_size=2, shard=shard, first=1),
            one_epoch(shards.train, seed=1, epoch=2, batch_size=2, shard=shard, first=1),
        )
        assert equal(
            folders.test.eval_batches(batch_size=2, shard=shard), shards.test.eval_batches(batch_size=2, shard=shard)
        )


def test_an_image_that_cannot_be_read_is_counted_by_its_shard_and_name(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_shard(tmp_path / split / "0.tar", [*samples(160, 3), ("9", b"no image", "1")])
    data = open_folder(tmp_path, small_net(size=160), val_fraction=0)
    list(data.test.eval_batches(batch_size=2, shard=Shard()))
    assert data.unreadable.names == {"0.tar/9.png"}


@pytest.mark.parametrize(
    ("shard", "sentence"),
    [
        ([("1", b"image", None)], r"0\.tar is not a readable shard: 1\.png has no label 1\.cls"),
        ([("1", b"image", "cat")], r"0\.tar is not a readable shard: invalid literal for int"),
        ([("1", png(0, 0, 32), "2")], r"split test of folder has the label 2, but the model's head has 2 classes"),
        ([("1", b"image", "-1")], r"1\.png has no label 1\.cls, or a negative one"),
        ([], r"test holds no images: a shard has KEY\.jpg and KEY\.cls for each"),
        (None, r"0\.tar is not a readable shard"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(shard: list[Sample] | None, sentence: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "0.tar", samples(32, 3))
    write_shard(tmp_path / "test" / "0.tar", samples(32, 3) if shard is None else shard)
    if shard is None:
        (tmp_path / "test" / "0.tar").write_bytes(b"not a tar file")
    raises_data_error(sentence, lambda: open_folder(tmp_path))


def test_labels_are_listed_without_reading_images(tmp_path: Path) -> None:
    from timm_jackpot.data.read import known_labels
    from timm_jackpot.data.shards import Shards, shards_in

    write_shard(tmp_path / "0.tar", samples(32, 2))
    found = Shards(shards_in(tmp_path))
    assert torch.equal(known_labels(found), torch.tensor([0, 0, 1, 1]))
    (tmp_path / "class").mkdir()
    assert shards_in(tmp_path) == []
