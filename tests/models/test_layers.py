import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from flax import nnx

from flax_sd.models import layers
from tests.parity import LAYER, assert_close, to_torch


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs(masked: bool) -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(3, 7, 2, 5)).astype(np.float32)
    k, v = rng.normal(1.0, 2.0, size=(2, 3, 11, 2, 5)).astype(np.float32)
    mask = np.arange(7)[:, None] >= np.arange(11)[None, :] - 3 if masked else None
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(np.moveaxis(x, 2, 1).copy()) for x in (q, k, v)),
        attn_mask=None if mask is None else torch.from_numpy(mask),
    )
    ours = layers.attention(
        *map(jnp.asarray, (q, k, v)), None if mask is None else jnp.asarray(mask)
    )
    assert_close(ours, np.moveaxis(theirs.numpy(), 1, 2), LAYER)


@pytest.mark.parametrize("n", [512, 600, 1025])
def test_blocked_attention_and_its_gradient_are_plain_attentions(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32)
    k, v = jnp.asarray(rng.normal(1.0, 2.0, size=(2, 2, 7, 3, 4)), jnp.float32)

    def gradient(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layers.attention(q, k, v)))

    plain = layers.attention(q, k, v), *jax.grad(gradient, (0, 1, 2))(q, k, v)
    monkeypatch.setattr(layers, "BLOCKED_FROM", 1)
    blocked = layers.attention(q, k, v), *jax.grad(gradient, (0, 1, 2))(q, k, v)
    for ours, theirs in zip(blocked, plain, strict=True):
        assert_close(ours, np.asarray(theirs), LAYER)


def test_large_attention_never_holds_all_logits() -> None:
    x = jax.ShapeDtypeStruct((1, 4096, 8, 40), jnp.float32)
    assert "4096,4096" not in str(jax.make_jaxpr(layers.attention)(x, x, x))


def test_attention_computes_its_softmax_in_float32() -> None:
    x = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
    text = str(jax.make_jaxpr(layers.attention)(x, x, x))
    assert "exp" in text and "bf16[1,1,4,4] = exp" not in text


@pytest.mark.parametrize("width", [32, 33])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_embedding_is_diffusers(width: int, flip: bool, shift: int) -> None:
    t = np.array([0, 1, 250, 999])
    theirs = get_timestep_embedding(
        torch.from_numpy(t), width, flip_sin_to_cos=flip, downscale_freq_shift=shift
    )
    ours = layers.timestep_embedding(jnp.asarray(t), width, flip_sin_to_cos=flip, freq_shift=shift)
    assert_close(ours, theirs.numpy(), LAYER)


@pytest.mark.parametrize("size", [(10, 6), (9, 5), (5, 3), (13, 4)])
def test_upsample_nearest_is_torchs(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(to_torch(x), size=size, mode="nearest")
    assert_close(layers.upsample_nearest(jnp.asarray(x), size), theirs, 0)


def test_group_norm_holds_up_far_from_zero() -> None:
    x = np.random.default_rng(0).normal(30, 0.05, size=(2, 6, 5, 8)).astype(np.float32)
    ours = layers.group_norm(8, 4, 1e-6, rngs=nnx.Rngs(0))(jnp.asarray(x))
    groups = x.astype(np.float64).reshape(2, 30, 4, 2)
    mean = groups.mean((1, 3), keepdims=True)
    exact = (groups - mean) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    assert np.abs(ours - exact.reshape(x.shape)).max() < 1e-3  # E[x²] - E[x]² would miss by 0.7


def test_a_zero_layer_starts_at_zero() -> None:
    x = jnp.ones((1, 4, 4, 3))
    assert not np.any(layers.conv(3, 5, zero=True, rngs=nnx.Rngs(0))(x))
    assert not np.any(layers.linear(3, 5, zero=True, rngs=nnx.Rngs(0))(x))
    assert np.any(layers.conv(3, 5, rngs=nnx.Rngs(0))(x))
