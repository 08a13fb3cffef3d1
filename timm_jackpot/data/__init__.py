"""The images that a run trains, validates and tests on."""

from timm_jackpot.data.default import default_data_notice
from timm_jackpot.data.flags import DataFlags
from timm_jackpot.data.leaks import image_hashes, shared_images
from timm_jackpot.data.open import Data, data_config, open_data, open_split, random_data
from timm_jackpot.data.source import Batch, ImageSource, steps_per_epoch

__all__ = [
    "Batch",
    "Data",
    "DataFlags",
    "ImageSource",
    "data_config",
    "default_data_notice",
    "image_hashes",
    "open_data",
    "open_split",
    "random_data",
    "shared_images",
    "steps_per_epoch",
]
