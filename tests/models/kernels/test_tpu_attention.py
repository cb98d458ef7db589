"""The kernel, interpreted on the CPU and compiled for TPUs; and when it is taken."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from flax_sd.models import layers
from flax_sd.models.kernels.tpu_attention import kernel_attention, takes_kernel
from flax_sd.system.flops import count_flops
from flax_sd.system.sharding import make_mesh
from tests import processes
from tests.parity import assert_close

FOUR_CHIPS = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding
from flax_sd.system import sharding
from flax_sd.models import layers
from flax_sd.commands.plan.devices import topology_target

mesh = sharding.make_mesh(-1, 1, topology_target("v5e:2x2").devices)
rows = NamedSharding(mesh, sharding.BATCH)
x = jax.ShapeDtypeStruct((8, 1024, 2, 40), jnp.bfloat16, sharding=rows)

@jax.jit
def gradient(q, k, v):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.grad(lambda *qkv: layers.attention(*qkv).astype(jnp.float32).sum(), (0, 1, 2))(
            q, k, v
        )

compiled = gradient.lower(x, x, x).compile()
text = compiled.as_text()
print(text.count('custom_call_target="tpu_custom_call"'))
print(sum(text.count(kind) for kind in ("all-gather", "all-reduce", "all-to-all")))
"""


def mesh(devices=1, platform="tpu"):
    kind = AbstractDevice(device_kind="a kind", num_cores=1, platform=platform)
    types = (AxisType.Auto,) * 2
    return AbstractMesh((devices, 1), ("data", "fsdp"), types, abstract_device=kind)


def shapes(images, queries, keys, width, dtype="bfloat16"):
    return [jnp.zeros((images, n, 2, width), dtype) for n in (queries, keys)]


@pytest.mark.parametrize(
    ("devices", "platform", "of", "taken"),
    [
        (1, "tpu", (1, 4096, 4096, 40), True),
        (4, "tpu", (8, 1024, 1024, 80), True),
        (1, "tpu", (1, 3456, 3456, 64), True),  # 27 blocks of 128
        (1, "tpu", (1, 4096, 4096, 256), True),
        (1, "tpu", (1, 4096, 4096, 160), False),
        (1, "tpu", (1, 4096, 77, 40), False),
        (1, "tpu", (1, 4096, 4096, 40, "float32"), False),
        (4, "tpu", (6, 4096, 4096, 40), False),
        (1, "cpu", (1, 4096, 4096, 40), False),
    ],
)
def test_taken(devices, platform, of, taken):
    queries_and_keys = shapes(*of)
    with jax.sharding.use_abstract_mesh(mesh(devices, platform)):
        assert takes_kernel(*queries_and_keys) == taken


def test_not_taken_without_a_mesh():
    assert not takes_kernel(*shapes(1, 4096, 4096, 40))


@pytest.mark.parametrize("width", [40, 128])
def test_the_kernel_and_its_gradient_are_plain_attentions(width):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, 128, 3, width)), jnp.float32)
    k, v = jnp.asarray(rng.normal(1.0, 2.0, size=(2, 2, 256, 3, width)), jnp.float32)

    def both(attend):
        def scalar(q, k, v):
            return jnp.sum(jnp.sin(attend(q, k, v)))

        return attend(q, k, v), *jax.grad(scalar, (0, 1, 2))(q, k, v)

    plain = both(layers.attention)
    with jax.set_mesh(make_mesh(1, 1, jax.devices()[:1])), pltpu.force_tpu_interpret_mode():
        kernel = both(jax.jit(kernel_attention))
    for ours, theirs in zip(kernel, plain, strict=True):
        assert_close(ours, theirs, 1e-5)


def test_its_operations_are_counted_for_all_devices():
    q, k = shapes(4, 512, 1024, 40)

    def attend(q, k):
        with jax.sharding.use_abstract_mesh(mesh(2)):
            return layers.attention(q, k, k)

    assert count_flops(attend, q, k) == 2 * 2 * q.size * 1024  # two products


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: its compiler is what is tested"
)
def test_the_kernel_compiles_for_chips_that_are_not_there():
    kernels, messages = map(int, processes.run(FOUR_CHIPS).split())
    assert kernels == 3  # forward, the gradient of the queries, and that of keys and values
    assert messages == 0
