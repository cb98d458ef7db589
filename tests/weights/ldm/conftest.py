"""The names and configs of the public models, and small checkpoints in one file."""

import pytest

from tests.weights.ldm import tiny_files
from tests.weights.ldm.public import FOLDERS


@pytest.fixture(scope="session")
def public(test_data):
    """The folder of the public models' configs and tensor names, beside the real files."""
    folder = test_data.parent / "reference" / "sd_configs"
    if not all((folder / name).is_dir() for name in FOLDERS.values()):
        pytest.skip(f"{folder} does not hold the public models' configs")
    return folder


@pytest.fixture(scope="session")
def singles(tmp_path_factory):
    """Tiny pipelines of sd1, sd2 and sdxl, each saved as a folder and as a single file beside."""
    root = tmp_path_factory.mktemp("singles")
    for family in ("sd1", "sd2", "sdxl"):
        pipeline = tiny_files.build(family)
        pipeline.save_pretrained(root / family)
        tiny_files.write_single(pipeline, family, root / f"{family}.safetensors")
    return root
