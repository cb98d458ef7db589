"""What a device says of itself."""

from types import SimpleNamespace

import pytest

from flax_sd.system.precision import compute_capability


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("8.6", 8.6),
        ("12.0", 12.0),
        ("gfx90a", None),
        ("gfx942:sramecc+:xnack-", None),
        ("", None),
        ("nan", None),
        (None, None),
    ],
)
def test_only_nvidias_gpus_have_a_number(said, number):
    """A7."""
    assert compute_capability(SimpleNamespace(compute_capability=said)) == number


def test_a_cpu_says_nothing():
    assert compute_capability(SimpleNamespace(platform="cpu")) is None
