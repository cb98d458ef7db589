"""Ends the processes of a run together: none waits for one that is gone."""

import contextlib
import importlib.util
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_sd.errors import UserError
from flax_sd.system import terminal
from flax_sd.system.exit_status import BAD_INPUT, FAILED

GRACE = 3.0  # seconds that the first process leaves the others for their own last words
# What JAX's transports say when the other end of a connection is not there any more.
GONE = re.compile(
    r"gloo|nccl|coordination service|socket closed|connection (reset|closed|refused)|heartbeat",
    re.IGNORECASE,
)
LOST = (
    "another process of this run is gone, and so this one ends too: look at what that one said "
    "last; what was saved is good, and the same command in every process resumes from there"
)

HEARTBEAT = 30  # seconds without a sign of a process after which the others end; JAX has 100


def is_gone(error: BaseException) -> bool:
    """Tells whether an error means that another process of the run has ended."""
    plain = isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError)
    return plain and not isinstance(error, UserError) and bool(GONE.search(str(error)))


@contextlib.contextmanager
def exit_with_peers() -> Iterator[None]:
    """Ends this process at once on an error, if it is one of several.

    Otherwise what follows an error, such as closing checkpoints or leaving JAX's service, would
    wait for minutes for processes that wait for this one, or are gone.
    """
    try:
        yield
    except Exception as error:
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        if is_gone(error):
            terminal.complain(f"error: {LOST}")
        elif isinstance(error, UserError):
            terminal.complain(f"error: {error}")
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:  # with it goes the service that the others need
            time.sleep(GRACE)
        os._exit(BAD_INPUT if is_gone(error) or isinstance(error, UserError) else FAILED)


def any_process(flag: bool) -> bool:
    """Tells whether the flag is set in any process; all processes must call it at the same
    point."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def initialize_distributed() -> bool:
    """Joins the other processes that the environment describes; returns whether there are any.

    Call it before anything touches a device, and before signal handlers are installed: it takes
    SIGTERM for itself.
    """
    cluster = find_cluster(os.environ, tpu_vm=_on_tpu_vm())
    if cluster == "explicit":
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    elif cluster is not None:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    return cluster is not None


def find_cluster(environ: Mapping[str, str], *, tpu_vm: bool = False) -> str | None:
    """Returns the kind of multi-process environment that the variables describe, or None.

    explicit: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; slurm: inside `srun`
    with more than one task (in a bare `salloc` shell SLURM_STEP_NODELIST is missing); tpu: GKE
    names more than one worker, there are several slices, or a TPU VM's metadata server knows.

    Raises:
      UserError: only some of the three JAX variables are set.
    """
    explicit = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    missing = [name for name in explicit if name not in environ]
    if not missing:
        return "explicit"
    if len(missing) < len(explicit):
        found = ", ".join(name for name in explicit if name in environ)
        raise UserError(f"{found} is set but {', '.join(missing)} is not; set all three or none")
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environ for name in slurm) and int(environ.get("SLURM_NTASKS", "1")) > 1:
        return "slurm"
    workers = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    if "," in workers or "MEGASCALE_COORDINATOR_ADDRESS" in environ:
        return "tpu"
    if tpu_vm and not workers and "TPU_SKIP_MDS_QUERY" not in environ:
        return "tpu"
    return None


def _on_tpu_vm() -> bool:
    """Tells whether this machine has TPU chips that JAX will use."""
    chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    wanted = "tpu" in (os.environ.get("JAX_PLATFORMS") or "tpu")
    return wanted and bool(chips) and importlib.util.find_spec("libtpu") is not None
