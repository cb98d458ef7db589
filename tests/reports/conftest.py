"""The captioned images of tests/data, of which reports are made too."""

from tests.data.conftest import config, folder, noise

__all__ = ["config", "folder", "noise"]
