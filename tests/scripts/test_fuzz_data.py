"""Made sources of every kind are read to the end, with a word for each entry."""

import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def fuzz_data(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import fuzz_data

    monkeypatch.setattr(fuzz_data.datasets.config, "HF_DATASETS_CACHE", None)  # is set for each
    return fuzz_data


@pytest.mark.filterwarnings("ignore")  # of `datasets`, of what it takes for images
@pytest.mark.parametrize("kind", ["folder", "metadata", "tar", "shard", "table"])
def test_nothing_is_absent_and_nothing_but_a_user_error_is_raised(fuzz_data, kind):
    outcomes = [fuzz_data.read(kind, f"test/{number}") for number in range(6)]
    assert [faults for _, faults in outcomes] == [[]] * 6
    assert "read" in [outcome for outcome, _ in outcomes]


class Account:
    """What was said of a source with five entries, of which b.npz is gathered and d.npz absent."""

    names = ("a.png",)
    bad = [("c", "cannot be read")]
    unused = [("a.npz and 1 more", "no picture")]

    def __len__(self):
        return 1


def test_what_is_absent_is_found(fuzz_data):
    made = fuzz_data.Made(pathlib.Path("set"), ["a.png", "a.npz", "b.npz", "c/in it.png"])
    assert fuzz_data.absent(made, Account()) == []
    (fault,) = fuzz_data.absent(made._replace(entries=[*made.entries, "d.npz"]), Account())
    assert "no word of ['b.npz', 'd.npz']" in fault
    (fault,) = fuzz_data.absent(made._replace(rows=3), Account())
    assert fault == "3 rows, 1 used, 1 left out"
