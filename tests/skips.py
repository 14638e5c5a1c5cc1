"""`pytest --max-skips N` fails if more than N tests are skipped, so that no test is lost unseen. `tests/conftest.py` loads it."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--max-skips", type=int, default=None, help="fail if more tests than this are skipped")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Count the skipped tests where the results are reported: xdist's workers have no reporter."""
    bound = session.config.getoption("--max-skips")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if bound is None or reporter is None:
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped > bound and exitstatus == 0:
        reporter.write_line(f"{skipped} tests were skipped; --max-skips allows {bound}.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
