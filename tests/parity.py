"""Helpers of the parity tests: tensors across frameworks, and the one measure of difference."""

import jax
import numpy as np
import torch

LAYER, NETWORK = 1e-5, 1e-4  # the tolerances of docs/numerics.md; never relaxed


def to_torch(x: np.ndarray | jax.Array) -> torch.Tensor:
    """Channels-last array to a torch tensor, channels first if it is an image."""
    x = np.array(x)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x))


def from_torch(x: torch.Tensor) -> np.ndarray:
    """Torch tensor to an array, channels last if it is an image."""
    array = x.detach().numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def numpy_state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A torch module's tensors under their checkpoint names."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every tensor anew, so that no zero or one of the initialisation hides a bug."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            fan_in = max(1, p[0].numel()) if p.ndim > 1 else 1
            if p.ndim > 1:
                p.copy_(noise / fan_in**0.5)
            else:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
    return module.eval()


def assert_close(ours: object, theirs: object, tolerance: float) -> None:
    """Asserts max|ours - theirs| <= tolerance * max|theirs|; `pytest -rP` shows the differences."""
    a = np.asarray(ours, np.float64)
    b = from_torch(theirs) if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    assert a.shape == b.shape, f"shape {a.shape}, reference {b.shape}"
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
    print(f"relative difference {error:.1e} of {tolerance:.0e}")
    assert error <= tolerance, f"relative difference {error:.2e} > {tolerance:.0e}"
