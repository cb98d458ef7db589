"""Gives the values that a method uses again slots of memory, and writes its calls as matrices."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from flax_sd.samplers.forms import Form, Value
from flax_sd.samplers.levels import Level
from flax_sd.samplers.sampler import NEW


@dataclasses.dataclass
class Call:
    """A call of the network as a method recorded it.

    Attributes:
      level: the level of noise.
      x: what the network is called with.
      draws: whether noise is drawn.
      kept: values that later calls may use.
      leads_to: the next call's x.
    """

    level: Level
    x: Value
    draws: bool = False
    kept: list[Value] = dataclasses.field(default_factory=list)
    leads_to: Form = Form({})


def state_tables(calls: Sequence[Call]) -> Float64[np.ndarray, "m s s_and_new"]:
    """Returns a matrix for each call, that turns the state and the new values into the next state.

    The state is x, and a slot for each value that is used after the call; a slot is used again once
    its value is not. The new values are those of `NEW`.
    """
    last_use = _last_uses(calls)
    held, tables = {calls[0].x: 0}, []  # value -> its slot before the call
    for k, call in enumerate(calls):
        fresh = [v for v in last_use if v.call == k and v not in held]
        needed = [v for v in (*held, *fresh) if last_use.get(v, k) > k]
        slots = {v: held[v] for v in needed if held.get(v, 0)}  # x itself has to leave slot 0
        for value in needed:
            if value not in slots:
                free = set(range(1, len(needed) + 1)) - set(slots.values())
                slots[value] = min(free)
        next_state = {slots[v]: _made(v, k) for v in needed} | {0: call.leads_to.expanded(k)}
        tables.append(
            {
                (slot, held.get(value, value.kind)): weight
                for slot, form in next_state.items()
                for value, weight in form.weights.items()
            }
        )
        held = slots | ({calls[k + 1].x: 0} if k + 1 < len(calls) else {})
    return _matrices(tables)


def _made(value: Value, call: int) -> Form:
    """Returns what a value is made of at a call: itself, if it is there already."""
    return Form.of(value).expanded(call)


def _last_uses(calls: Sequence[Call]) -> dict[Value, int]:
    """Returns the last call that computes with each value; those that none uses are left out."""
    uses: dict[Value, int] = {}
    for k, call in reversed(list(enumerate(calls))):
        kept = [Form.of(value) for value in call.kept if value in uses]
        for form in (call.leads_to, *kept):
            for value in form.expanded(k).weights:
                uses.setdefault(value, k)
    return uses


def _matrices(tables: list[dict[tuple[int, int | str], float]]) -> np.ndarray:
    """Returns tables of (slot, slot or kind of a new value) as arrays."""
    slots = 1 + max(slot for table in tables for slot, _ in table)
    matrices = np.zeros((len(tables), slots, slots + len(NEW)))
    for matrix, table in zip(matrices, tables, strict=True):
        for (slot, column), weight in table.items():
            place = column if isinstance(column, int) else slots + NEW.index(column)
            matrix[slot, place] += weight
    return matrices
