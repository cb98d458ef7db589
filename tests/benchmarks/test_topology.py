"""A step compiled for chips that are not there, and the bytes that copies move."""

import importlib.util

import pytest

HLO = """
ENTRY %main (p: f32[8,16]) -> f32[16,8] {
  %p = f32[8,16]{1,0} parameter(0)
  %copy.1 = f32[8,16]{0,1} copy(%p)
  %transpose_fusion = bf16[16,8]{1,0:T(8,128)(2,1)} fusion(%copy.1), kind=kLoop
  %copy-done = f32[8,16]{1,0:S(1)} copy-done(%p)
  ROOT %add = f32[8,16]{1,0} add(%p, %p)
}
"""


def test_copies_and_transposes_are_counted_but_not_prefetches():
    from benchmarks.compiled import topology

    assert topology.moved(HLO) == 8 * 16 * 4 + 8 * 16 * 2


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no libtpu: its compiler is what is tested"
)
def test_a_tiny_step_for_four_chips(rows_of):
    (row,) = rows_of("compiled.topology", "v5e:2x2", "--images", "1")
    assert row["chips"] == "4" and "all-reduce" in row["collectives"]
    assert float(row["GB a chip"]) < 1
    assert float(row["MB of their results"]) < 1  # gradients of a LoRA, and no weight
