import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from flax_sd.errors import UserError
from flax_sd.models.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
)
from flax_sd.models.text_encoders import TextRule, encode_ids
from flax_sd.weights.fill import checkpoint_key, fill, to_torch_layout
from flax_sd.weights.networks import OneKey
from tests import parity

SD1_LIKE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 13,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "attention_dropout": 0.0,
}
SD2_LIKE = {**SD1_LIKE, "hidden_act": "gelu", "eos_token_id": 7, "layer_norm_eps": 1e-3}
SD1_FULL = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
SD2_FULL = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "hidden_act": "gelu",
}


def abstract(raw):
    config = CLIPTextConfig.from_json(raw)
    return nnx.eval_shape(lambda: CLIPTextModel(config, rngs=OneKey()))


def pair(raw):
    """transformers' model with random weights, and ours with the same."""
    theirs = parity.randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**raw)))
    tensors = {f"text_model.{name}": t for name, t in parity.numpy_state(theirs).items()}
    return theirs, fill(abstract(raw), tensors, "float32", "test")


def ids(n=13):
    """Prompts whose end token 7 comes twice and whose largest id is elsewhere."""
    tokens = np.random.default_rng(0).integers(8, 98, (3, n))
    tokens[0, 4:6] = tokens[1, -1] = tokens[2, 2] = 7
    tokens[0, 3] = tokens[1, 0] = tokens[2, -1] = 98
    return tokens


@pytest.mark.parametrize("raw", [SD1_LIKE, SD2_LIKE], ids=["sd1", "sd2"])
@pytest.mark.parametrize("skip", [0, 1, 3])
def test_states_equal_transformers(raw, skip):
    theirs, ours = pair(raw)
    out = ours(jnp.asarray(ids()), skip)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids()), output_hidden_states=True)
        text = theirs.final_layer_norm(expected.hidden_states[-(skip + 1)])
    parity.assert_close(out.text, text, parity.LAYER)
    parity.assert_close(out.pooled, expected.pooler_output, parity.LAYER)
    if skip == 0:
        parity.assert_close(out.text, expected.last_hidden_state, parity.LAYER)


@pytest.mark.parametrize("raw", [SD1_FULL, SD2_FULL], ids=["SD 1.5", "SD 2.1"])
def test_tensor_names_and_shapes_equal_the_files(raw):
    with torch.device("meta"):
        theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**raw)).state_dict()
    _, state = nnx.split(abstract(raw))
    ours = {}
    for path, var in nnx.to_flat_state(state):
        layout = to_torch_layout(path, np.broadcast_to(np.float32(0), var.shape))
        ours[checkpoint_key(path)] = layout.shape
    assert ours == {f"text_model.{name}": tuple(t.shape) for name, t in theirs.items()}
    assert (
        sum(map(np.prod, ours.values()))
        == {12: 123_060_480, 23: 340_387_840}[raw.get("num_hidden_layers", 12)]
    )


@pytest.mark.parametrize("skip", [1, 3])
def test_sdxls_second_encoder_equals_transformers(skip):
    """States without the last norm, and the projection of the pooled one."""
    raw = {**SD2_LIKE, "projection_dim": 11}
    theirs = parity.randomise(
        transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**raw))
    )
    config = CLIPTextProjectionConfig.from_json(raw)
    ours = fill(
        nnx.eval_shape(lambda: CLIPTextModelWithProjection(config, rngs=OneKey())),
        parity.numpy_state(theirs),
        "float32",
        "test",
    )
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids()), output_hidden_states=True)
    out = ours(jnp.asarray(ids()), skip, normed=False)
    parity.assert_close(out.text, expected.hidden_states[-(skip + 1)], parity.LAYER)
    parity.assert_close(out.pooled, expected.text_embeds, parity.LAYER)


def test_states_of_two_encoders_stand_side_by_side():
    _, first = pair(SD1_LIKE)
    _, second = pair({**SD2_LIKE, "hidden_size": 24})
    given = [jnp.asarray(ids()), jnp.asarray(ids()[::-1])]
    both = encode_ids([first, second], given, 0, TextRule(skip=1, normed=False))
    alone = [
        encode_ids([encoder], [own], 1, TextRule(normed=False))
        for encoder, own in zip((first, second), given, strict=True)
    ]
    np.testing.assert_array_equal(both.text, np.concatenate([a.text for a in alone], axis=-1))
    np.testing.assert_array_equal(both.pooled, alone[1].pooled)


def test_tokens_see_only_what_comes_before():
    _, ours = pair(SD1_LIKE)
    changed = ids()
    changed[:, 8:] = 50
    a, b = ours(jnp.asarray(ids())), ours(jnp.asarray(changed))
    np.testing.assert_array_equal(a.text[:, :8], b.text[:, :8])
    assert np.abs(a.text[:, 8:] - b.text[:, 8:]).max() > 0.1


def test_short_prompts_are_read():
    theirs, ours = pair(SD1_LIKE)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids(9)))
    parity.assert_close(ours(jnp.asarray(ids(9))).text, expected.last_hidden_state, parity.LAYER)


@pytest.mark.parametrize("skip", [0, 1])
def test_chunks_are_read_one_by_one_and_joined(skip):
    """As `encode_tokens` of sd-scripts' library/strategy_sd.py: inner begins and ends go."""
    theirs, ours = pair(SD1_LIKE)
    chunks = np.stack([ids(), ids()[::-1], ids() // 2], axis=1)
    parts = []
    for i in range(3):
        with torch.no_grad():
            out = theirs(torch.from_numpy(chunks[:, i]), output_hidden_states=True)
            states = theirs.final_layer_norm(out.hidden_states[-(skip + 1)])
        parts.append(states[:, (0 if i == 0 else 1) : (None if i == 2 else -1)])
    joined = encode_ids([ours], [jnp.asarray(chunks)], skip, TextRule()).text
    parity.assert_close(joined, torch.cat(parts, dim=1), parity.LAYER)
    assert joined.shape == (3, 1 + 3 * 11 + 1, 32)


def test_a_prompt_without_chunks_is_read_as_it_is():
    _, ours = pair(SD1_LIKE)
    plain = ours(jnp.asarray(ids()), 1).text
    np.testing.assert_array_equal(
        encode_ids([ours], [jnp.asarray(ids())], 1, TextRule()).text, plain
    )
    single = encode_ids([ours], [jnp.asarray(ids())[:, None]], 1, TextRule()).text
    np.testing.assert_array_equal(single, plain)


def test_computes_in_the_dtype_of_the_parameters():
    _, ours = pair(SD2_LIKE)
    exact = ours(jnp.asarray(ids()))
    graphdef, state = nnx.split(ours)
    half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    for ours_half, full in zip(half(jnp.asarray(ids()), 0), exact, strict=True):
        assert ours_half.dtype == jnp.bfloat16
        parity.assert_close(ours_half, full, 0.05)


def test_a_new_model_is_drawn_as_transformers_draws():
    raw = {**SD1_LIKE, "hidden_size": 128, "intermediate_size": 512, "vocab_size": 1000}
    torch.manual_seed(0)
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**raw)).state_dict()
    model = CLIPTextModel(CLIPTextConfig.from_json(raw), rngs=nnx.Rngs(0))
    for path, var in nnx.to_flat_state(nnx.state(model)):
        expected = theirs[checkpoint_key(path).removeprefix("text_model.")].std().item()
        np.testing.assert_allclose(np.std(var[...]), expected, rtol=0.1, err_msg=str(path))


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match=r"(?s)num_attention_heads 5 does not divide hidden_size"):
        CLIPTextConfig.from_json({**SD1_LIKE, "num_attention_heads": 5})
    with pytest.raises(UserError, match=r'(?s)attention_dropout is 1\.5.*hidden_act has "relu"'):
        CLIPTextConfig.from_json({**SD1_LIKE, "hidden_act": "relu", "attention_dropout": 1.5})
    _, ours = pair(SD1_LIKE)
    with pytest.raises(UserError, match="clip_skip is 4: this text encoder has 3 layers"):
        ours(jnp.asarray(ids()), 4)
    with pytest.raises(UserError, match="a prompt of 14 tokens: this text encoder reads 13"):
        ours(jnp.asarray(ids(14)))


def test_every_field_of_transformers_is_known():
    own = transformers.CLIPTextConfig.__annotations__.keys() & vars(transformers.CLIPTextConfig())
    without_effect = {"pad_token_id", "bos_token_id", "initializer_range", "initializer_factor"}
    without_effect.add("projection_dim")  # of the projection beside the text model
    fields = CLIPTextConfig.__dataclass_fields__
    assert own == fields.keys() | without_effect
    reference = transformers.CLIPTextConfig()
    for name in fields:
        assert getattr(CLIPTextConfig(), name) == getattr(reference, name), name
