"""The networks that come with the package. Importing this room registers them with timm: `timm.create_model` knows
`digits_resnet`, `cifar_resnet20`, … then."""

from timm_jackpot.networks import cifar, digits

__all__ = ["cifar", "digits"]
