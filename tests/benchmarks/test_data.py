"""Both sides cut the same pixels from the same files, and a run reads the folder."""

import pytest


@pytest.mark.slow
def test_pictures(rows_of):
    compared, training = rows_of("data")
    assert compared["work"] == "pictures, 2 workers"
    assert float(compared["largest difference"]) <= 1e-5
    assert 0 <= float(training["share of the time waited for data"]) <= 1
