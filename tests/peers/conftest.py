"""The small family and its command line, as the harness's tests have them."""

from tests.harness.conftest import bench as bench
