"""The script that breaks the product: its breaks can be made, and what it says of their tests."""

import ast
import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def _load():
    spec = importlib.util.spec_from_file_location(
        "mutation_test", ROOT / "scripts/mutation_test.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation_test"] = module  # where NamedTuple looks for its annotations
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


script = _load()


@pytest.mark.parametrize("mutation", script.MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_break_fits_the_code_as_it_is(mutation):
    text = (ROOT / mutation.file).read_text("utf-8")
    assert text.count(mutation.old) == 1, "update the snippet beside the code that it is of"
    broken = text.replace(mutation.old, mutation.new)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text))
    assert all((ROOT / test).is_file() for test in mutation.tests)


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (0, "3 passed", "MISSED"),
        (1, "FAILED tests/a.py::test_b - assert 1 == 2", "caught"),
        (1, "ERROR tests/a.py - ImportError", "error"),
        (2, "ERROR tests/a.py", "error"),
        (5, "no tests ran", "error"),
    ],
)
def test_only_a_test_that_fails_counts(code, text, verdict):
    assert script.judged(code, text).verdict == verdict


def test_the_files_text_is_put_back(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    with (
        pytest.raises(KeyboardInterrupt),
        script.broken(script.Mutation("a", "a.py", "1", "2", ())),
    ):
        assert (tmp_path / "a.py").read_bytes() == b"x = 2\r\n"
        raise KeyboardInterrupt
    assert (tmp_path / "a.py").read_bytes() == b"x = 1\r\n"
