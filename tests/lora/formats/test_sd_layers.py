import pytest
from flax import nnx

from flax_sd.lora.formats import sd_layers
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.targets import slots
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.weights.networks import OneKey

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV, TEXT = "down_blocks.1.resnets.0.conv2", "text_model.encoder.layers.3.mlp.fc1"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (TO_Q, "attention"),
        (CONV, "convolution"),
        (TEXT, "feed-forward"),
        ("mid_block.attentions.0.proj_in", "proj_in/out"),
        ("time_embedding.linear_1", "time embedding"),
        ("mid_block.resnets.0.time_emb_proj", "time embedding"),
        ("conv_in", "convolution"),
        ("add_embedding.linear_2", "size and crop"),
        ("text_projection", "text projection"),
    ],
)
def test_kinds(path, kind):
    assert sd_layers.kind(path) == kind


@pytest.mark.slow
def test_every_layer_of_a_real_unet_is_known(sd15, sd21):
    for unet in (sd15, sd21):
        assert {LayerRef("unet", path) for path in slots(unet)} <= set(sd_layers.names().values())


@pytest.mark.slow
def test_every_layer_of_sdxl_is_known(sdxl):
    refs = {LayerRef(name, path) for name, network in sdxl.items() for path in slots(network)}
    assert refs <= set(sd_layers.names().values())


@pytest.mark.parametrize("layers", [12, 23], ids=["SD 1", "SD 2"])
def test_every_layer_of_a_text_encoder_is_known(layers):
    config = CLIPTextConfig(num_hidden_layers=layers)
    encoder = nnx.eval_shape(lambda: CLIPTextModel(config, rngs=OneKey()))
    known = set(sd_layers.names().values())
    assert {LayerRef("text_encoder", path) for path in slots(encoder)} <= known
