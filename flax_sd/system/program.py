"""Jitted functions: their settings, their compiler options, and which of them are the same."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
import pydantic
from jax.sharding import Mesh
from jax.stages import Lowered, Traced
from jaxtyping import PyTree

from flax_sd.system import sharding
from flax_sd.system.compiler import compiler_options

BUILDERS = 16  # results that each builder of functions keeps
# Weights of a program from which on memory matters: each network of SD 1.5 has more (the VAE 84
# million), the bundled base's three together 27 million.
LARGE_PROGRAM_WEIGHTS = 2**26

NUMBER = "a number"
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
        function: Callable[..., T],
        weights: Callable[P, object],
        options: Mapping[str, Any],
    ):
        self._weights, self._shared = weights, _Jitted(function, options)
        # Arguments before those of the caller; what `lower` made and was compiled needs them.
        self.first: tuple[object, ...] = ()

    def with_first(self, first: object, mesh: Mesh | None = None) -> "Program[P, T]":
        """Returns the same program with a fixed argument before the others.

        Args:
          mesh: the devices that the argument is copied to, unless they are those of a plan.
        """
        bound = copy.copy(self)
        # Where it lies is part of what a program is traced for: a trace is the call's from now on.
        present = mesh is not None and mesh.devices.flat[0] in jax.devices()
        bound.first = sharding.replicate((first,), mesh) if mesh and present else (first,)
        return bound

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted(*self.first, *args, **kwargs)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> Lowered:
        """Lowers the function like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.lower(*self.first, *args, **kwargs)

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> Traced:
        """Traces the function like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.trace(*self.first, *args, **kwargs)

    def eval_shape(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Returns the shapes of the results like `jax.jit`'s method."""
        jitted = self._pick(*args, **kwargs)
        with self._in_precision():
            return jitted.eval_shape(*self.first, *args, **kwargs)

    def _pick(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._shared.picked(lambda: self._weights(*args, **kwargs))

    def _in_precision(self) -> contextlib.AbstractContextManager[object]:
        precision = self._shared.precision
        if precision is None or jax.config.values["jax_default_matmul_precision"] is not None:
            return contextlib.nullcontext()
        return jax.default_matmul_precision(precision)


class _Jitted:
    """The `jax.jit` that a program and its copies with fixed arguments share."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]):
        self._function, self._options = function, options
        self._jitted: Any = None  # jax.jit's, whose declaration lacks eval_shape
        self.precision: str | None = None

    def picked(self, weights: Callable[[], object]) -> Any:
        """Returns the jitted function, whose options the first weights fix."""
        if self._jitted is None:
            leaves = jax.tree.leaves(weights())
            large = sum(getattr(leaf, "size", 0) for leaf in leaves) >= LARGE_PROGRAM_WEIGHTS
            self.precision = matmul_precision({str(getattr(leaf, "dtype", "")) for leaf in leaves})
            own = compiler_options(large)
            self._jitted = jax.jit(self._function, compiler_options=own, **self._options)
        return self._jitted


class Settings(NamedTuple):
    """What a program is built for: a tree of which the numbers are its arguments.

    Runs that differ in numbers alone share one program. Floats and arrays are numbers, but for a
    float of 0, which turns something off; all else is structure.
    """

    numbers: list[Any]
    structure: "Structure"


class Structure(NamedTuple):
    """Settings without their numbers."""

    tree: Any  # jax.tree_util.PyTreeDef, whose declaration is no type
    others: tuple[Any, ...]  # NUMBER where one was

    def filled(self, numbers: Sequence[Any]) -> PyTree:
        """Returns the settings with these numbers."""
        left = iter(numbers)
        return jax.tree.unflatten(
            self.tree, [next(left) if other is NUMBER else other for other in self.others]
        )


def divided(settings: PyTree) -> Settings:
    """Divides settings into numbers and structure."""
    leaves, tree = jax.tree.flatten(settings)
    found = filter(_is_number, leaves)
    numbers = [np.asarray(x, np.float32) if isinstance(x, float) else x for x in found]
    others = tuple(NUMBER if _is_number(leaf) else leaf for leaf in leaves)
    return Settings(numbers, Structure(tree, others))


def is_off(value: object) -> bool:
    """Tells whether an option is 0 or None; a traced number is neither."""
    return value is None or (isinstance(value, float | int) and value == 0)


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | jax.Array) or (
        isinstance(leaf, float) and leaf != 0
    )


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
