"""Which numbers a command calculates in."""

import jax

AMPERE = 8.0  # compute capability of NVIDIA's first GPUs with bfloat16


def resolve_dtype(name: str) -> str:
    """The dtype that is named; "auto" is what the devices do well.

    float32 on a CPU, float16 on a GPU without bfloat16 (T4, V100), bfloat16 elsewhere.
    """
    if name != "auto":
        return name
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "float32"
    # Only NVIDIA's GPUs have a capability that is a number; JAX's declarations leave it out.
    capability = getattr(device, "compute_capability", None)
    return "float16" if _is_old(capability) else "bfloat16"


def scales_loss(name: str) -> bool:
    """Whether training in the dtype that is named scales the loss, as float16 needs."""
    return resolve_dtype(name) == "float16"


def _is_old(capability: str | None) -> bool:
    try:
        return capability is not None and float(capability) < AMPERE
    except ValueError:  # gfx90a and the like, all of which have bfloat16
        return False
