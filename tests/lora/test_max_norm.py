import jax
import numpy as np
import pytest
from flax import nnx

from flax_sd.lora.inject import attach, extract
from flax_sd.lora.max_norm import limit_norms
from tests.lora.networks import small
from tests.lora.test_inject import random_adapters


@pytest.mark.parametrize("largest", [2.0, 1e4])
def test_no_update_is_larger(largest):
    """Against the formula of sd-scripts, for linears and convolutions."""
    model, adapters = small(), random_adapters(small(), rank=2, alpha=3.0)
    adapters["attn2.to_k"] = adapters["attn2.to_k"]._replace(up=0 * adapters["attn2.to_k"].up)
    attach(model, adapters, 1.0)
    graph, params, frozen = nnx.split(model, nnx.LoRAParam, ...)
    limited = jax.jit(limit_norms, static_argnums=2)(params, frozen, largest)
    assert jax.tree.structure(limited) == jax.tree.structure(params)
    for path, after in extract(nnx.merge(graph, limited, frozen)).items():
        before = adapters[path]
        norm = max(np.linalg.norm(before.delta()), largest / 2)
        ratio = min(norm, largest) / norm
        np.testing.assert_allclose(after.up, before.up * ratio**0.5, rtol=1e-5)
        np.testing.assert_allclose(after.down, before.down * ratio**0.5, rtol=1e-5)
        assert np.linalg.norm(after.delta()) <= largest * (1 + 1e-5)
        assert (ratio < 1) == (largest == 2 and before.up.any())
