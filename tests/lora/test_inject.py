import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_sd.errors import UserError
from flax_sd.lora.adapter import Adapter, alpha_of
from flax_sd.lora.inject import attach, detach, extract, inject
from flax_sd.lora.targets import slots
from flax_sd.lora.tools.merge import merge
from tests.lora.networks import small
from tests.parity import LAYER, assert_close

KEY = jax.random.key(3)
INPUTS = (
    jnp.linspace(-1, 2, 2 * 8 * 6 * 3).reshape(2, 8, 6, 3),
    jnp.linspace(0, 1, 40).reshape(2, 4, 5),
)


def random_adapters(model, seed=0, rank=2, alpha=3.0):
    """A LoRA for every layer, neither half of it zero."""
    rng, adapters = np.random.default_rng(seed), {}
    for path, slot in slots(model).items():
        *window, c_in, c_out = slot.base.kernel.shape
        down = rng.normal(size=(rank, c_in, *window)).astype(np.float32)
        up = rng.normal(size=(c_out, rank, *(1 for _ in window))).astype(np.float32)
        adapters[path] = Adapter(down, up, alpha)
    return adapters


def test_gaussian_and_kaiming_starts():
    model = nnx.Dict(linear=nnx.Linear(400, 8, rngs=nnx.Rngs(0)))
    inject(model, "linear", 16, 16, "gaussian", KEY)
    adapter = extract(model)["linear"]
    assert abs(adapter.down.std() - 1 / 16) < 2e-3 and not adapter.up.any()
    detach(model)
    inject(model, "linear", 16, 16, "kaiming", KEY)
    adapter = extract(model)["linear"]
    bound = 1 / 20  # √(6 / ((1 + √5²) fan_in)) = 1 / √400
    assert 0.99 * bound < np.abs(adapter.down).max() <= bound
    assert abs(adapter.down.std() - bound / 3**0.5) < 2e-3 and not adapter.up.any()


def test_kaiming_of_a_convolution_counts_its_window():
    model = nnx.Dict(conv=small().conv_down)
    inject(model, "conv", 8, 8, "kaiming", KEY)
    bound = 1 / (6 * 9) ** 0.5
    assert 0.9 * bound < np.abs(extract(model)["conv"].down).max() <= bound


def test_a_layers_draw_does_not_depend_on_the_others():
    one, many = small(), small()
    inject(one, r"attn2\.to_q", 4, 4, "gaussian", KEY)
    inject(many, "conv", 4, 4, "gaussian", KEY)
    np.testing.assert_array_equal(extract(one)["attn2.to_q"].down, extract(many)["attn2.to_q"].down)
    downs = [extract(many)[path].down.ravel()[:8] for path in ("attn2.to_q", "attn2.to_out.0")]
    assert not np.allclose(*downs)


def test_abstract_model_gets_abstract_leaves():
    concrete, abstract = small(), nnx.eval_shape(small)
    for model in (concrete, abstract):
        inject(model, "conv", 4, 8, "gaussian", KEY)
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(model))
        for model in (concrete, abstract)
    ]
    assert shapes[0] == shapes[1]
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(nnx.state(abstract)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "rank 0"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"name": "items"}, "cannot be called 'items'"),
        ({"name": "default"}, "'default' exists already"),
    ],
)
def test_what_cannot_be_injected(change, said):
    model = small()
    inject(model, "attention", 2, 2, "gaussian", KEY)
    good = {"targets": "conv", "rank": 2, "alpha": 2, "init": "gaussian", "key": KEY, "name": "b"}
    with pytest.raises(UserError, match=said):
        inject(model, **(good | change))
    assert len(extract(model)) == 3 and list(model.attn2.to_q.adapters) == ["default"]


def test_several_adapters_add_up_and_detach_restores_the_very_objects():
    model = small()
    originals = {path: slot.layer for path, slot in slots(model).items()}
    base = model(*INPUTS)
    attach(model, random_adapters(model, 0), 0.5, "a")
    only_a = model(*INPUTS)
    attach(model, random_adapters(model, 1), 1.0, "b-2")
    assert not np.allclose(model(*INPUTS), only_a)
    detach(model, "b-2")
    np.testing.assert_array_equal(model(*INPUTS), only_a)
    detach(model, "a")
    np.testing.assert_array_equal(model(*INPUTS), base)
    assert all(slot.layer is originals[path] for path, slot in slots(model).items())
    with pytest.raises(UserError, match="no LoRA called 'a' is attached; there is none"):
        detach(model, "a")


def test_merged_equals_wrapped():
    model = small()
    attach(model, random_adapters(model, 0), 0.7, "a")
    attach(model, random_adapters(model, 1, rank=3), -0.4, "b")
    wrapped = model(*INPUTS)
    merge(model)
    assert not any(hasattr(slot.layer, "adapters") for slot in slots(model).values())
    assert_close(model(*INPUTS), np.asarray(wrapped), LAYER)


def test_merge_keeps_the_bases_dtype_and_rounds_once():
    model = small()
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    before = np.asarray(model.attn2.to_q.kernel[...], np.float32)
    adapter = random_adapters(model)["attn2.to_q"]
    attach(model, {"attn2.to_q": adapter}, 1.0)
    merge(model)
    kernel = model.attn2.to_q.kernel[...]
    assert kernel.dtype == jnp.bfloat16
    expected = (before + adapter.delta().T).astype(jnp.bfloat16)
    np.testing.assert_allclose(np.float32(kernel), np.float32(expected), rtol=2**-7)


@pytest.mark.parametrize("of", [lambda model: model, nnx.state], ids=["module", "state"])
def test_extract_gives_back_what_was_attached(of):
    model = small()
    adapters = random_adapters(model, rank=3, alpha=0.5)
    attach(model, adapters, 1.0, "x")
    out = extract(of(model), "x")
    assert out.keys() == adapters.keys()
    for path, adapter in adapters.items():
        np.testing.assert_array_equal(out[path].down, adapter.down)
        np.testing.assert_array_equal(out[path].up, adapter.up)
        assert out[path].alpha == 0.5
    with pytest.raises(UserError, match="no LoRA called 'y'"):
        extract(model, "y")


def test_attach_names_every_misfit_and_touches_nothing():
    model = small()
    adapters = random_adapters(model)
    adapters["attn2.to_x"] = adapters["attn2.to_q"]
    adapters["attn2.to_k"] = adapters["attn2.to_q"]
    adapters["conv_down"] = adapters["proj_in"]
    said = r"(?s)attn2\.to_k: down is \[2, 8\].*\[2, 5\].*conv_down.*no such layer: attn2\.to_x"
    with pytest.raises(UserError, match=said):
        attach(model, adapters, 1.0)
    assert not any(hasattr(slot.layer, "adapters") for slot in slots(model).values())


@settings(deadline=None)
@given(half_alpha=st.integers(1, 1024), rank=st.integers(1, 320))
def test_alpha_is_recovered_from_the_scale(half_alpha, rank):
    assert alpha_of(np.float32(half_alpha / 2 / rank), rank) == half_alpha / 2


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("alpha", [6, None])
def test_the_scale_is_pefts(stabilised, alpha):
    model = small()
    inject(model, r"attn2\.to_q", 9, alpha, "gaussian", KEY, rank_stabilised=stabilised)
    given = 9 if alpha is None else alpha
    config = peft.LoraConfig(r=9, lora_alpha=given, use_rslora=stabilised, target_modules=["0"])
    layer = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
    scale = layer.base_model.model[0].scaling["default"]
    np.testing.assert_allclose(extract(model)["attn2.to_q"].scale, scale, rtol=1e-6)


def test_a_rank_for_each_path():
    model = small()
    ranks = {"attn2.to_q": 3, "conv_down": 0}
    paths = inject(model, "conv", lambda path: ranks.get(path, 2), None, "gaussian", KEY)
    assert "attn2.to_q" in paths and "conv_down" not in paths
    adapters = extract(model)
    assert adapters["attn2.to_q"].rank == 3 and adapters["attn2.to_out.0"].rank == 2
    with pytest.raises(UserError, match="every layer that it picks has rank 0"):
        inject(small(), "conv", lambda path: 0, None, "gaussian", KEY)
