"""Both sides cut the same pixels from the same files, and a run reads the folder."""

import pytest


@pytest.mark.slow
def test_images(rows_of):
    compared, cached, each, once = rows_of("against_torch.data")
    assert compared["work"] == "images, 2 workers"
    assert float(compared["largest difference"]) <= 1e-5
    assert cached["work"] == "moments from the cache, 2 workers"
    assert [row["work"].split(", ")[1] for row in (each, once)] == [
        "encoded at each step",
        "encoded once",
    ]
    assert all(0 <= float(row["share of the time waited for data"]) <= 1 for row in (each, once))
