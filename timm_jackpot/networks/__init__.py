"""The networks that come with the package. Importing this room registers them with timm: `timm.create_model` knows
`digits_resnet`, `cifar_resnet20`, … then."""

from timm_jackpot.networks import cifar, digits

OUR_MODULES = ("cifar", "digits")  # as timm's registry names them

__all__ = ["OUR_MODULES", "cifar", "digits"]
