"""XLA's compiler: its options, its cached programs in memory and on disk, and its memory."""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import os
import platform
import pwd
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import numpy as np
import pydantic
from jax.stages import Lowered, Traced

from flax_sd.files.user_cache import user_cache

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; empty turns the cache off
MAX_BYTES = 8 * 2**30  # a step at the size of SD 1.5 takes 3 MB on a CPU; the oldest go first
BUILDERS = 16  # results that each builder of functions keeps
DETERMINISTIC = "--xla_gpu_deterministic_ops"
MIN_SECONDS = 1.0  # seconds of compiling that leave memory worth giving back
# A step's temporaries at the size of SD 1.5 take 1.8 GiB in place of 2.5, in the same time. One
# operation runs after another then; where each is too small for all cores, side by side is faster.
CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
}
# Weights of a program from which on memory matters: each network of SD 1.5 has more (the VAE 84
# million), the bundled base's three together 27 million.
LARGE_PROGRAM_WEIGHTS = 2**26


P = ParamSpec("P")
T = TypeVar("T")


def remembered(build: Callable[P, T]) -> Callable[P, T]:
    """Makes a builder of functions return the same function for equal arguments.

    JAX traces and compiles each function object anew, even if it does what another one does. With
    this decorator a second run or model of the same kind in a process reuses the first one's
    programs. Everything that the result depends on must be an argument.
    """

    @functools.lru_cache(maxsize=BUILDERS)
    def cached(call: _Call) -> T:
        return build(*call.args, **call.kwargs)

    @functools.wraps(build)
    def remembering(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(_Call(args, kwargs, _key((args, kwargs))))

    return remembering


@dataclasses.dataclass(frozen=True)
class _Call:
    """Arguments of a builder, equal to others whose contents are equal."""

    args: tuple[Any, ...] = dataclasses.field(compare=False)
    kwargs: dict[str, Any] = dataclasses.field(compare=False)
    key: Hashable


def _key(value: Any) -> Hashable:
    """Returns a hashable stand-in for the contents of a value.

    Raises:
      TypeError: the value cannot be compared by its contents.
    """
    if isinstance(value, Mapping):
        return frozenset((name, _key(each)) for name, each in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_key, value))
    if isinstance(value, np.ndarray | jax.Array):
        return value.shape, str(value.dtype), np.asarray(value).tobytes()
    if isinstance(value, pydantic.BaseModel):
        return type(value), value.model_dump_json()
    try:
        hash(value)
    except TypeError:
        if not dataclasses.is_dataclass(value):
            raise
        fields = dataclasses.fields(value)
        return type(value), tuple(_key(getattr(value, field.name)) for field in fields)
    return value


class Program(Generic[P, T]):
    """A jitted function; its first weights fix the compiler's options and the precision.

    Float32 weights are multiplied as float32: JAX's default on a TPU is bfloat16, and TF32 on a
    GPU from Ampere on. JAX_DEFAULT_MATMUL_PRECISION overrides this.
    """

    def __init__(
        self,
        function: Callable[P, T],
        weights: Callable[P, object],
        options: Mapping[str, Any],
    ):
        self._function, self._weights, self._options = function, weights, options
        self._jitted: Any = None  # jax.jit's, whose declaration lacks eval_shape
        self._precision: str | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted(*args, **kwargs)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Lowers the function like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.lower(*args, **kwargs)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Traced:
        """Traces the function like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.trace(*args, **kwargs)

    def eval_shape(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Returns the shapes of the results like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.eval_shape(*args, **kwargs)

    def _in_precision(self) -> contextlib.AbstractContextManager[object]:
        if self._precision is None or jax.config.values["jax_default_matmul_precision"] is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision(self._precision)

    def _pick(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Returns the jitted function, whose options the first weights fix."""
        if self._jitted is not None:
            return self._jitted
        leaves = jax.tree.leaves(self._weights(*args, **kwargs))
        numbers = sum(getattr(leaf, "size", 0) for leaf in leaves)
        own = _compiler_options() if numbers >= LARGE_PROGRAM_WEIGHTS else None
        self._precision = matmul_precision({str(getattr(leaf, "dtype", "")) for leaf in leaves})
        self._jitted = jax.jit(self._function, compiler_options=own, **self._options)
        return self._jitted


def matmul_precision(dtypes: Collection[str]) -> str | None:
    """Returns the precision of products with weights of these dtypes; None for JAX's default."""
    return None if {"bfloat16", "float16"} & set(dtypes) else "highest"


def jit(
    function: Callable[P, T],
    *,
    weights: Callable[P, object] = lambda *args, **_: args,
    **options: Any,
) -> Program[P, T]:
    """Returns the `jax.jit` of a large program, with this module's compiler options.

    For programs at the top only: JAX refuses such options of a function inside another jit.

    Args:
      weights: the arguments -> those whose size says whether the program is large.
      options: of `jax.jit`.
    """
    return Program(function, weights, options)


@functools.cache
def _compiler_options() -> dict[str, str | bool] | None:
    """Returns the options for the default devices; None if this version of XLA does not know
    them."""
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=CPU_OPTIONS)
    except jax.errors.JaxRuntimeError:
        return None
    return CPU_OPTIONS


def ask_for_determinism() -> None:
    """Tells XLA to use only operations that give the same bytes each time on a GPU.

    It must be called before JAX looks for devices. On a CPU the flag is known and has no effect; a
    TPU's compiler, which is always deterministic, may stop at flags that it does not know.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    on_tpu = importlib.util.find_spec("libtpu") is not None
    if DETERMINISTIC not in flags and not on_tpu:  # the user may have said otherwise
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def set_up() -> None:
    """Keeps compiled programs on disk and frees the compiler's memory; every command calls it."""
    _keep_programs()
    _give_memory_back()


def _keep_programs() -> None:
    """Uses the user's cache folder for compiled programs, unless JAX's cache is configured.

    What lies there is run without being checked, so no other user may write to it.
    """
    if VARIABLE in os.environ or not _has_name():
        return
    folder = user_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError:
        return  # a home that cannot be written to: compile as without a cache
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)


def _has_name() -> bool:
    """Tells whether this user has a name: JAX asks for the owner of each file of a bounded
    cache."""
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


@functools.cache  # JAX keeps every listener: one is enough, however many commands a process runs
def _give_memory_back() -> None:
    """Returns freed memory to the system after each long compilation, as glibc keeps it.

    Compiling the step of SD 1.5 leaves more than a gigabyte free inside the process, in pieces that
    the step's large buffers do not fit into.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim = ctypes.CDLL(None).malloc_trim

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > MIN_SECONDS:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(compiled)
