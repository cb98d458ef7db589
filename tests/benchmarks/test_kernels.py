"""Every algorithm is timed in both directions, and the bound between them is put back."""

import pytest


@pytest.mark.slow
def test_both_directions():
    from benchmarks.against_torch import kernels
    from flax_sd.models.kernels import convolution

    before = convolution.WINOGRAD_FROM
    for backward in (False, True):
        row = kernels.convolution_row((8, 16, 24), 1, backward, 1)
        assert set(row) == {"work", "XLA", "shifted views", "Winograd", "chosen", "torch"}
        assert all(value > 0 for name, value in row.items() if name != "work")
        for name in ("jax.nn", "chosen", "torch"):
            assert kernels.attention_row(name, (512, 2, 8), backward, 1)["ms"] > 0
    assert convolution.WINOGRAD_FROM == before
