"""A trace of some steps of a run, for Perfetto or TensorBoard."""

import pathlib

import jax


class Profile:
    """Traces the steps from `first` to `last`, both included.

    Args:
      steps: "first:last", counted from 1; None traces nothing.
      folder: folder of the trace, for TensorBoard's profile plugin and Perfetto (*.trace.json.gz).
    """

    def __init__(self, steps: str | None, folder: pathlib.Path):
        self._first, self._last = map(int, steps.split(":")) if steps else (0, 0)
        self._folder, self._running = folder, False

    def before(self, step: int) -> None:
        """Starts the trace if it begins at that step."""
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: jax.Array) -> bool:
        """Ends the trace when its last step has a result; returns True if it did."""
        if not self._running or step < self._last:
            return False
        jax.block_until_ready(result)
        self.close()
        return True

    def close(self) -> None:
        """Ends the trace if the run stopped before its last step."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
