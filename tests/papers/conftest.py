"""The small random-weight family of the harness tests, and a finished run of it."""

from tests.harness.conftest import bench, finished

__all__ = ["bench", "finished"]
