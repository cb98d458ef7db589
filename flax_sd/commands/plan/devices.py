"""The devices of a plan: those of this machine, or a TPU that need not be present."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from flax_sd.errors import UserError
from flax_sd.system.memory import CHIPS, device_memory

_TOPOLOGY = re.compile(r"(v\d+\w?):\d+x\d+(?:x\d+)?")


class Target(NamedTuple):
    """Devices to compile for.

    Attributes:
      memory: bytes of each; None if unknown.
    """

    name: str
    devices: Sequence[Any]
    memory: int | None


def local_target() -> Target:
    """Returns all devices that JAX finds here."""
    devices = jax.devices()
    return Target(devices[0].device_kind, devices, device_memory(devices[0]))


def topology_target(name: str) -> Target:
    """Returns the chips of a TPU topology such as v5e:4x4; JAX must not have been initialised.

    Raises:
      UserError: there is no such topology, or no TPU compiler.
    """
    found = _TOPOLOGY.fullmatch(name)
    if found is None or found[1] not in CHIPS:
        raise UserError(
            f"--topology is {name!r}: a topology is written v5e:4x4 or v4:2x2x1; chips are "
            f"{', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f'--topology {name} needs the TPU compiler: pip install "flax_sd[tpu]"')
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # else it asks a TPU VM's server
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is used
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = topologies.get_topology_desc(name, platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology {name}: the TPU compiler refuses it ({reason})") from error
    return Target(found[1], devices, CHIPS[found[1]] * 10**9)
