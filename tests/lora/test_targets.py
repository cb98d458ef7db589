import math

import jax
import pytest
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.lora.formats import kohya
from flax_sd.lora.formats.format import LayerRef
from flax_sd.lora.inject import detach, inject
from flax_sd.lora.targets import PRESETS, match, slots
from flax_sd.models.clip import CLIPTextConfig, CLIPTextModel
from flax_sd.weights.networks import OneKey
from tests.lora.networks import names_hash, small


@pytest.mark.slow  # the abstract UNet takes seconds to build
def test_paths_are_those_of_diffusers(sd15):
    paths = list(slots(sd15))
    assert len(paths) == 282
    assert names_hash(paths) == "dd6091162eb4b863"


@pytest.mark.slow  # the abstract UNet takes seconds to build
def test_kohya_names(sd15):
    everything = [kohya.names(LayerRef("unet", path))[0] for path in match(sd15, "conv")]
    default = [kohya.names(LayerRef("unet", path))[0] for path in match(sd15, "sd-scripts")]
    assert (len(everything), len(set(everything))) == (282, 282)
    assert names_hash(everything) == "e42284eed01d957d"
    # Of sd-scripts' networks/lora.py: 128 of attention, 32 of feed-forward, 32 projections.
    assert len(default) == 192
    assert names_hash(default) == "bdfc29d0bf3d9ac6"


@pytest.mark.parametrize(("layers", "count"), [(12, 72), (23, 138)], ids=["SD 1", "SD 2"])
def test_kohya_names_of_the_text_encoder(layers, count):
    """D: sd-scripts trains every linear of CLIPAttention and CLIPMLP."""
    config = CLIPTextConfig(num_hidden_layers=layers)
    encoder = nnx.eval_shape(lambda: CLIPTextModel(config, rngs=OneKey()))
    names = {
        kohya.names(LayerRef("text_encoder", path))[0] for path in match(encoder, "sd-scripts")
    }
    modules = [f"self_attn_{name}_proj" for name in ("q", "k", "v", "out")]
    modules += ["mlp_fc1", "mlp_fc2"]
    expected = {
        f"lora_te_text_model_encoder_layers_{layer}_{module}"
        for layer in range(layers)
        for module in modules
    }
    assert names == expected and len(names) == count


@pytest.mark.slow  # the abstract UNet takes seconds to build
def test_presets_of_sd15(sd15):
    counts = {preset: len(match(sd15, preset)) for preset in PRESETS}
    # all-linear: the time embedding's two and every ResBlock's, but not the 1x1 projections.
    attention = {"attention": 128, "attention+ff": 160, "sd-scripts": 192}
    assert counts == attention | {"all-linear": 184, "conv": 282}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "targets", "expected"),
    [
        ("sd15", "attention", {4: 797_184, 16: 3_188_736, 32: 6_377_472}),
        ("sd15", "sd-scripts", {4: 1_695_744, 16: 6_782_976, 32: 13_565_952}),
        ("sd15", "conv", {4: 4_232_864, 16: 16_931_456, 32: 33_862_912}),
        ("sd21", "attention", {4: 829_952}),
        ("sd21", "sd-scripts", {4: 1_728_512, 16: 6_914_048, 32: 13_828_096}),
        ("sd21", "conv", {4: 4_265_632, 16: 17_062_528, 32: 34_125_056}),
    ],
)
def test_trainable_parameters(request, config, targets, expected):
    """The table of SD 1.5's and 2.1's counts, on the real sizes without their arrays."""
    model = request.getfixturevalue(config)
    for rank, count in expected.items():
        paths = inject(model, targets, rank, rank, "gaussian", jax.random.key(0))
        table = slots(model)
        states = [nnx.state(table[path].layer, nnx.LoRAParam) for path in paths]
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(states)) == count
        detach(model)


def test_regular_expression_matches_whole_paths():
    assert match(small(), r"attn2\.to_(q|k)") == ["attn2.to_q", "attn2.to_k"]
    assert match(small(), "attention") == ["attn2.to_q", "attn2.to_k", "attn2.to_out.0"]


def test_no_match_shows_paths_that_exist():
    with pytest.raises(UserError, match=r"(?s)'to_q'.*Small.*attention\+ff.*attn2\.to_"):
        match(small(), "to_q")
    with pytest.raises(UserError, match="not a regular expression"):
        match(small(), "to_(q")


def test_text_encoder_preset_names():
    class Layer(nnx.Module):
        def __init__(self, rngs):
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                setattr(self, name, nnx.Linear(4, 4, rngs=rngs))
            self.mlp = nnx.Dict(fc1=nnx.Linear(4, 8, rngs=rngs), fc2=nnx.Linear(8, 4, rngs=rngs))

    layer = Layer(nnx.Rngs(0))
    assert match(layer, "attention") == ["q_proj", "k_proj", "v_proj", "out_proj"]
    assert match(layer, "attention+ff")[-2:] == ["mlp.fc1", "mlp.fc2"]
