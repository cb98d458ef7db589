"""Stable Diffusion's UNets at their real size, abstract, made once."""

import pytest
from flax import nnx

from flax_sd.models.unet import UNet2DConditionModel
from flax_sd.models.unet_config import UNetConfig
from flax_sd.weights.ldm.templates import base_configs
from flax_sd.weights.networks import OneKey, abstract_network

SD15 = UNetConfig(cross_attention_dim=768)
SD21 = UNetConfig(
    cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)


def abstract_unet(config: UNetConfig) -> UNet2DConditionModel:
    return nnx.eval_shape(lambda: UNet2DConditionModel(config, rngs=OneKey()))


@pytest.fixture(scope="session")
def sd15() -> UNet2DConditionModel:
    return abstract_unet(SD15)


@pytest.fixture(scope="session")
def sd21() -> UNet2DConditionModel:
    return abstract_unet(SD21)


@pytest.fixture(scope="session")
def sdxl() -> dict[str, nnx.Module]:
    """SDXL's UNet and text encoders."""
    configs = base_configs("sdxl")
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: abstract_network(configs[name], name) for name in names}
