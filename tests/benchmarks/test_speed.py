"""The comparison with torch runs, and both sides come to one result; times are not tested."""

import pytest


@pytest.mark.slow
def test_a_network(rows_of):
    (row,) = rows_of("speed", "unet")
    assert row["work"] == "unet, batch 1, float32"
    assert float(row["largest difference"]) <= 1e-4
    for side in ("flax_sd", "torch"):
        assert 0 < float(row[f"{side}, GiB"]) <= float(row[f"{side} whole, GiB"]) * 1.05


@pytest.mark.slow
def test_a_whole_step_in_two_dtypes(rows_of):
    (row,) = rows_of("speed", "whole_step", "--our-dtype", "bfloat16")
    assert row["work"] == "whole_step, batch 1, bfloat16, torch float32"
    assert float(row["ratio of time"]) > 0
