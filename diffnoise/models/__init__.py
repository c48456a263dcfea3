"""Denoising networks: anything that maps (x_t, t) to a tensor, or to an object with a `sample` tensor, fits."""

from .denoising import Denoised as Denoised
from .denoising import Denoiser as Denoiser
from .denoising import Output as Output
from .denoising import denoise as denoise
from .dit import DiT as DiT
from .dit import DiTConfig as DiTConfig
from .dtu_net import DTUNet as DTUNet
from .dtu_net import DTUNetConfig as DTUNetConfig
from .families import build as build
from .families import config_from_dict as config_from_dict
from .families import config_of as config_of
from .guidance import ClassGuided as ClassGuided
from .model_config import ModelConfig as ModelConfig
from .networks import Networks as Networks
from .prepared import prepare as prepare
from .transformer import TransformerConfig as TransformerConfig
from .u_vit import UViT as UViT
from .u_vit import UViTConfig as UViTConfig
from .unet import UNet as UNet
from .unet import UNetConfig as UNetConfig
