"""Collectives in programs' texts, written by hand and compiled."""

import pytest

from flax_sd.commands.plan.collectives import Traffic, collectives

PROGRAM = """HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}

%turn (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %moved = bf16[8,2]{1,0:T(8,128)S(1)} collective-permute(%x), source_target_pairs={{0,1}}
}

%taken (p: pred[3]) -> pred[3] {
  ROOT %g.1 = pred[3]{0} all-to-all(%p), dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %r = (f32[4,8]{1,0}, f32[2]{0}) all-reduce(%x, %x), to_apply=%add
  %s = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
  %d = f32[16]{0} all-gather-done(%s)
  %w = (s32[], f32[8]) while(%t), condition=%add, body=%turn, backend_config={BACKEND}
  %c = pred[3]{0} conditional(%x, %x), branch_computations={%taken, %add}
  ROOT %out = f32[8]{0} add(%x, %x)
}
"""


@pytest.mark.parametrize(
    ("backend", "turns"), [('{"known_trip_count":{"n":"5"},"x":[]}', 5), ('{"x":[]}', 1)]
)
def test_each_kind_is_counted_with_the_bytes_of_its_results(backend, turns):
    assert collectives(PROGRAM.replace("{BACKEND}", backend)) == {
        "all-reduce": Traffic(1, 4 * 8 * 4 + 2 * 4),
        "all-gather": Traffic(1, 16 * 4),
        "collective-permute": Traffic(turns, turns * 8 * 2 * 2),
        "all-to-all": Traffic(1, 3),
    }


def test_a_program_of_one_device_sends_nothing():
    assert (
        collectives("HloModule a\n\nENTRY %main () -> f32[] {\n  ROOT %c = f32[] constant(0)\n}")
        == {}
    )
