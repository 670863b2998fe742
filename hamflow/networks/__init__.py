"""Networks: called as `network(c_noise, x, condition=None, key=None)` on one example, they return an array like x."""

from hamflow.networks.attention import SelfAttention as SelfAttention
from hamflow.networks.blocks import ResidualBlock as ResidualBlock
from hamflow.networks.embedding import (
    ConditionEmbedding as ConditionEmbedding,
    Embedding as Embedding,
    FourierFeatures as FourierFeatures,
    SinusoidalFeatures as SinusoidalFeatures,
)
from hamflow.networks.mlp import MLP as MLP
from hamflow.networks.unet import UNet as UNet
