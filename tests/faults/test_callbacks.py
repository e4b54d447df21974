"""A callback that hangs holds up nobody who does not wait for it."""

from __future__ import annotations

import threading

from faults.tools import PATIENCE, manner, serving, tool

SOON = 5.0


def test_a_progress_callback_that_hangs_does_not_delay_the_answers_of_others() -> None:
    """I1, I4: it runs on the lane, and not on the thread that reads."""
    begun, release = threading.Event(), threading.Event()

    def hang(*report: object) -> None:
        begun.set()
        release.wait(PATIENCE)

    with serving(work=manner("progress", times=3, then=True)) as client:
        caller = threading.Thread(target=lambda: client.call_tool("work", timeout=PATIENCE, on_progress=hang))
        caller.start()
        try:
            assert begun.wait(PATIENCE)
            for number in range(3):
                assert tool(client, "echo", SOON, n=number) == {"n": number}
        finally:
            release.set()
            caller.join(PATIENCE)
