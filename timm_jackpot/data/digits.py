"""scikit-learn's 1,797 handwritten digits (8×8, Alpaydin & Kaynak 1998) as 32-pixel RGB images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DIGITS_SIZE = 32
# Every third image, in the dataset's own order, is a test image: from the first, second or third one on. The bundled
# weights were not trained on the test images of the first fold.
DIGITS_FOLDS = ("digits", "digits/2", "digits/3")


def digits_split(split: str, name: str = "digits") -> tuple[Tensor, Tensor]:
    """Images [n, 3, 32, 32] uint8 and labels [n] of "train" (1,198) or "test" (599), of one of DIGITS_FOLDS."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    is_test = np.arange(len(digits.target)) % 3 == DIGITS_FOLDS.index(name)
    chosen = is_test if split == "test" else ~is_test
    small = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BILINEAR))
        for image in small
    ]
    images = torch.from_numpy(np.stack(large)).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    return images, torch.from_numpy(digits.target[chosen].astype(np.int64))
