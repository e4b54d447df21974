"""What holds for every test: it leaves nothing behind, and every call ends in time and is accounted for."""

from __future__ import annotations

import faulthandler
import gc
from collections.abc import Iterator

import hypothesis
import pytest

from house import leakcheck, ledger
from mcp_sync.protocol import messages


def pytest_configure() -> None:
    # pytest enables it too, unless told not to. A crash in a thread without a traceback is an evening lost.
    if not faulthandler.is_enabled():
        faulthandler.enable()
    # How long an example may take is a matter for tests that measure; by the wall clock, any machine is too slow once.
    hypothesis.settings.register_profile("unhurried", deadline=None)
    hypothesis.settings.load_profile("unhurried")


def pytest_sessionstart() -> None:
    # What most users have, here; in the programs that tests start, msgspec where it can be had.
    messages._quick_parse = None


def pytest_collection_finish() -> None:
    # Some hundred thousand objects live as long as this process: to look through them takes the collector a quarter of
    # a second, and whatever call was waiting then would have outlived its deadline.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a child process, a descriptor or a thread's exception behind.

    Or in which a call outlived its deadline, or calls are not accounted for.
    """
    if _is_excused(request.node):
        yield
        return
    before = leakcheck.take()
    with leakcheck.uncaught_in_threads() as exceptions:
        with ledger.watched_peers() as flaws:
            yield
        leaks = leakcheck.leaks_since(before)
    if found := leaks + exceptions + flaws:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)


def _is_excused(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("leaks")
    if marker is None:
        return False
    if not (len(marker.args) == 1 and isinstance(marker.args[0], str) and marker.args[0].strip()):
        pytest.fail('leaks wants a reason: @pytest.mark.leaks("why")', pytrace=False)
    return True
