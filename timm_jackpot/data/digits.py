"""The 1,797 handwritten digits that come with the package (8×8 pixels), as 32-pixel RGB images.

They are those of scikit-learn: the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
1998, UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0), with values from 0 to 16.
"""

from __future__ import annotations

from pathlib import Path

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
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"]
    is_test = np.arange(len(labels)) % 3 == DIGITS_FOLDS.index(name)
    chosen = is_test if split == "test" else ~is_test
    small = (images[chosen] * (255 / 16)).round().astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BILINEAR))
        for image in small
    ]
    rgb = torch.from_numpy(np.stack(large)).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    return rgb, torch.from_numpy(labels[chosen].astype(np.int64))
