"""Find images that two splits share: test images must not be training images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from timm_jackpot.data.loader import LoaderImages
from timm_jackpot.data.memory import MemoryImages
from timm_jackpot.data.read import UnreadableImage, read_image
from timm_jackpot.data.source import ImageSource

_MAX_DECODED = 20_000  # images: a minute or two


def shared_images(split: ImageSource, others: Sequence[ImageSource]) -> int | None:
    """How many images of `split` are also in one of `others`, pixel by pixel; None if this was not checked.

    Splits in memory are compared as they are. Others are decoded first, but only if they have at most 20,000 images in
    total.
    """
    sources = [split, *others]
    if not all(isinstance(source, MemoryImages) for source in sources) and not (
        all(isinstance(source, LoaderImages) for source in sources) and sum(map(len, sources)) <= _MAX_DECODED
    ):
        return None
    elsewhere = {digest for source in others for digest in _digests(source)}
    return sum(digest in elsewhere for digest in _digests(split))


def image_hashes(split: ImageSource) -> set[str] | None:
    """16 hexadecimal digits for each image, which tell equal pixels; None for more than 20,000 images on disk."""
    if not isinstance(split, MemoryImages) and len(split) > _MAX_DECODED:
        return None
    return {digest.hex()[:16] for digest in _digests(split)}


def _digests(source: ImageSource) -> Iterator[bytes]:
    if isinstance(source, MemoryImages):
        for image in source.images.cpu().numpy():
            yield hashlib.sha256(image.tobytes()).digest()
        return
    assert isinstance(source, LoaderImages)
    for index in source.indices.tolist():
        try:
            image = read_image(source.dataset, index)[0].convert(source.mode)
        except UnreadableImage:
            continue
        yield hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
