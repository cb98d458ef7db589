"""Which numbers a command calculates in."""

import jax


def resolve_dtype(name: str) -> str:
    """The dtype that is named; "auto" is float32 on a CPU and bfloat16 elsewhere."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
