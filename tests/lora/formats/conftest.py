"""Names that were checked against other programs."""

import importlib.util

import pytest


@pytest.fixture(scope="session")
def reference(test_data):
    """Names of the layers of SD 1.5 and SDXL, from a script that lies beside the test data."""
    path = test_data.parent / "reference" / "lora_names_ref.py"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the test data")
    spec = importlib.util.spec_from_file_location("lora_names_ref", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
