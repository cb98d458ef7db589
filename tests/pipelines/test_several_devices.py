"""A batch of images that is divided over devices."""

import textwrap

import pytest

from tests.parity import LAYER
from tests.processes import finish, start

DISTRIBUTED = """
    import sys
    import jax, numpy as np
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_default_matmul_precision", "highest")
    import flax_sd
    from flax_sd.errors import UserError
    from flax_sd.system.sharding import make_mesh
    sd = flax_sd.StableDiffusion.load(sys.argv[1])
    given = dict(num_inference_steps=3, sampler="euler_a", height=24, width=16, output="float")
    alone = sd.generate(["a", "b"], **given)
    sd.distribute(make_mesh(2, 1))
    print(np.abs(sd.generate(["a", "b"], **given) - alone).max())
    try:
        sd.generate(["a", "b", "c"], **given)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_images_are_divided_over_devices(folders):
    difference, error = finish(
        start(textwrap.dedent(DISTRIBUTED), folders / "sd1"), timeout=600
    ).splitlines()
    assert float(difference) <= LAYER
    assert error == "3 prompts: should be a multiple of 2 devices"
