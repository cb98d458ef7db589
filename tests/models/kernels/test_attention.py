"""Which kernel takes which queries; what the kernels compute is tested with the layers."""

import jax
import jax.numpy as jnp
import pytest

from flax_sd.models import layers
from flax_sd.models.kernels import attention


class Gpu:
    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("capability", "width", "dtype", "taken"),
    [
        ("9.0", 40, "bfloat16", True),
        ("9.0", 160, "float16", True),
        ("8.0", 160, "bfloat16", False),
        ("8.6", 80, "float16", True),
        ("7.5", 64, "float16", False),
        ("9.0", 512, "bfloat16", False),
        ("9.0", 36, "bfloat16", False),
        ("9.0", 64, "float32", False),
        ("gfx90a", 64, "bfloat16", False),  # AMD's: A7
    ],
)
def test_cudnn_is_asked_where_it_has_a_kernel(capability, width, dtype, taken, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Gpu(capability)])
    assert attention.takes_flash(jnp.ones((1, 2, 3, width), dtype)) == taken


def test_cudnn_is_asked_by_name_and_never_with_a_mask(monkeypatch):
    asked = []
    monkeypatch.setattr(layers, "takes_flash", lambda q: True)
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda q, k, v, implementation: asked.append(implementation) or q,
    )
    x = jnp.ones((1, 4, 2, 8))
    layers.attention(x, x, x)
    layers.attention(x, x, x, jnp.tril(jnp.ones((4, 4), bool)))
    assert asked == ["cudnn"]


def test_a_cpu_has_no_such_kernel():
    assert not attention.takes_flash(jnp.ones((1, 2, 3, 64), jnp.bfloat16))
