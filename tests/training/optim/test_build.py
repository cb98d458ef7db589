import diffusers.optimization
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from flax_sd.config import OptimConfig
from flax_sd.lora.inject import inject
from flax_sd.training import optim

TOTAL = 30
GROUPED = OptimConfig(
    learning_rate=3e-2,
    text_encoder_learning_rate=5e-3,
    beta1=0.8,
    beta2=0.95,
    epsilon=1e-3,
    weight_decay=0.1,
    text_encoder_weight_decay=0.0,
    schedule="linear",
    warmup_steps=2,
    max_grad_norm=0.7,
)


def params_and_grads(steps):
    """A zero and a random leaf a group, and gradients of which some are clipped and some not."""
    rng = np.random.default_rng(0)
    shapes = {"unet": {"down": (4, 3), "up": (5, 4)}, "text_encoder": {"down": (2, 7)}}

    def draw(size):
        return jax.tree.map(
            lambda shape: (size * rng.normal(size=shape)).astype(np.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )

    params = draw(1.0)
    params["unet"]["up"] *= 0
    return params, [draw(size) for size in [0.02, 1.0, 0.05, 3.0, 0.3][:steps]]


def their_steps(cfg, params, grads):
    """torch: clip over all, AdamW with two groups, LambdaLR."""
    leaves = jax.tree.map(lambda p: torch.nn.Parameter(torch.tensor(p)), params)
    text = list(leaves["text_encoder"].values())
    main = list(leaves["unet"].values())
    optimizer = torch.optim.AdamW(
        [
            {"params": main},
            {"params": text, "lr": cfg.text_encoder_learning_rate, "weight_decay": 0.0},
        ],
        lr=cfg.learning_rate,
        betas=(cfg.beta1, cfg.beta2),
        eps=cfg.epsilon,
        weight_decay=cfg.weight_decay,
    )
    scheduler = diffusers.optimization.get_scheduler(
        cfg.schedule, optimizer, num_warmup_steps=cfg.warmup_steps, num_training_steps=TOTAL
    )
    for grad in grads:
        for leaf, g in zip(jax.tree.leaves(leaves), jax.tree.leaves(grad), strict=True):
            leaf.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(main + text, cfg.max_grad_norm)
        optimizer.step()
        scheduler.step()
    return jax.tree.map(lambda p: p.detach().numpy(), leaves)


def our_steps(tx, params, grads):
    params = jax.tree.map(jnp.asarray, params)
    state, update = tx.init(params), jax.jit(tx.update)
    for grad in grads:
        updates, state = update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def test_five_steps_are_torch_adamw():
    params, grads = params_and_grads(5)
    theirs = their_steps(GROUPED, params, grads)
    ours = our_steps(optim.make_optimizer(GROUPED, TOTAL), params, grads)
    for start, a, b in zip(*map(jax.tree.leaves, (params, ours, theirs)), strict=True):
        moved = np.linalg.norm(b - start)
        # As a share of the movement, beside the rounding of the leaf itself.
        assert np.linalg.norm(a - b) <= 1e-6 * moved + 1e-7 * np.linalg.norm(start)


def test_zero_turns_clipping_off():
    params, grads = params_and_grads(2)
    cfg = GROUPED.model_copy(update={"max_grad_norm": 0.0})
    theirs = their_steps(cfg.model_copy(update={"max_grad_norm": 1e9}), params, grads)
    ours = our_steps(optim.make_optimizer(cfg, TOTAL), params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, theirs)


def test_groups_reach_into_module_states():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = {"unet": nnx.state(model), "text_encoder": nnx.state(model)}
    cfg = GROUPED.model_copy(update={"warmup_steps": 0, "epsilon": 1e-8})
    tx = optim.make_optimizer(cfg, TOTAL)
    state = tx.init(params)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.ones_like, params), state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    bias = {name: updates[name]["bias"][...] for name in params}  # starts at 0: no decay
    np.testing.assert_allclose(bias["unet"], -3e-2, rtol=1e-5)
    np.testing.assert_allclose(bias["text_encoder"], -5e-3, rtol=1e-5)


def test_lora_plus_reaches_into_module_states():
    model = nnx.Dict(linear=nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    inject(model, "linear", 2, None, "gaussian", jax.random.key(0))
    params = {"unet": nnx.state(model, nnx.LoRAParam)}
    tx = optim.make_optimizer(OptimConfig(lora_plus=4, weight_decay=0.0), TOTAL)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    sizes = updates["unet"]["linear"]["adapters"]["default"]
    np.testing.assert_allclose(sizes["up"][...], 4 * sizes["down"][...][0, 0], rtol=1e-5)


def test_lora_plus_and_patterns_reach_the_updates():
    params = {"unet": {"a": {"down": jnp.ones(3), "up": jnp.zeros(3)}, "b": {"up": jnp.zeros(3)}}}
    cfg = OptimConfig(learning_rate=0.1, lora_plus=4, rates={"unet.b": 0.5}, weight_decay=0.0)
    tx = optim.make_optimizer(cfg, TOTAL)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    sizes = {"a.down": 0.1, "a.up": 0.4, "b.up": 0.2}
    for path, size in sizes.items():
        block, name = path.split(".")
        np.testing.assert_allclose(updates["unet"][block][name], -size, rtol=1e-5)
