"""All the steps of a sampler as one `lax.scan`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from flax_sd.samplers.sampler import Carry, Sampler

Denoise = Callable[[Array, Array], Array]


def make_sample_loop(sampler: Sampler) -> Callable[..., Float[Array, "b h w c"]]:
    """Builds the pure sample(denoise, x, noise=None) → x_0.

    Args of the result:
      denoise: (scaled x [b, h, w, c], t scalar) → the network's output, guidance included.
      x: [b, h, w, c], N(0, I) times the sampler's `init_noise_sigma`.
      noise: [m, b, h, w, c], N(0, I) for each step; None if the sampler never draws.

    The sampler is a pytree: where a jitted function takes it as an argument, another config or
    step option of the same class and number of steps reuses the compiled program.
    """

    def sample(
        denoise: Denoise,
        x: Float[ArrayLike, "b h w c"],
        noise: Float[ArrayLike, "m b h w c"] | None = None,
    ) -> Float[Array, "b h w c"]:
        def step(carry: Carry, xs: tuple[Array, Array, Array | None]) -> tuple[Carry, None]:
            i, t, z = xs
            out = denoise(sampler.scale_input(carry.x, i), t)
            return sampler.step(carry, out, i, z), None

        t = sampler.timesteps
        steps = (jnp.arange(len(t)), t, None if noise is None else jnp.asarray(noise))
        return jax.lax.scan(step, sampler.init(x), steps)[0].x

    return sample
