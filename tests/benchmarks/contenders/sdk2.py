"""The official SDK, version 2: its Client in an event loop, and the same for threads through anyio's portal."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import anyio.from_thread
from contenders.contender import (
    TINY,
    TINY_ARGUMENTS,
    Contender,
    Order,
    Times,
    Watch,
    arguments_of,
    failure,
    footprint,
    growth,
    summary,
)
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

OPENING_SECONDS = 0.5
"""For what a task does after connecting: it opens a stream."""
MODES = {"handshake": "legacy", "stateless": "auto"}


def client_of(server: list[str] | str, era: str, note: Callable[[Any], Awaitable[None]] | None = None) -> Client:
    if isinstance(server, str):
        target: Any = streamable_http_client(server, max_sse_event_size=None)
    else:
        target = StdioServerParameters(command=server[0], args=server[1:])
    return Client(target, mode=MODES[era], message_handler=note)


class PortalConnection:
    """The Client behind ``anyio.from_thread.start_blocking_portal``, the way to use it from threads."""

    def __init__(self, server: list[str] | str, era: str) -> None:
        self.arrived = threading.Semaphore(0)
        self._stack = contextlib.ExitStack()
        self.portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal())
        client = client_of(server, era, self._note)
        self.client = self._stack.enter_context(self.portal.wrap_async_context_manager(client))

    async def _note(self, message: Any) -> None:
        self.arrived.release()

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        return self.portal.call(self.client.call_tool, tool, arguments)

    def submit(self, tool: str, arguments: dict[str, Any]) -> Any:
        return self.portal.start_task_soon(self.client.call_tool, tool, arguments)

    def collect(self, number: int) -> None:
        for _ in range(number):
            if not self.arrived.acquire(timeout=10):
                raise RuntimeError("notifications were lost")

    def close(self) -> None:
        self._stack.close()


class Portal(Contender):
    """The official SDK for threads."""

    def connect(self, era: str) -> PortalConnection:
        return PortalConnection(self.server, era)


class Async(Contender):
    """The official SDK in its event loop, which stands still between two cases."""

    client: Client

    def serve(self, orders: Iterable[Order], answer: Callable[[Any], None]) -> None:
        anyio.run(self._serve, orders, answer)

    async def _serve(self, orders: Iterable[Order], answer: Callable[[Any], None]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for order in orders:
                try:
                    if "era" in order:
                        client = client_of(self.server, order.pop("era"), self._note)
                        self.client = await stack.enter_async_context(client)
                    answer(await getattr(self, order.pop("case"))(**order))
                except Exception as error:
                    answer(failure(error))

    async def _note(self, message: Any) -> None:
        self.missing -= 1
        if not self.missing:
            self.all_arrived.set()

    # -- the cases; see Contender -------------------------------------------------------------------------------------

    async def calls(self, n: int, tool: str = TINY, number: int = 0, size: int = 0) -> Times:
        call, arguments = self.client.call_tool, arguments_of(number, size)
        times = []
        clock = time.perf_counter
        with Watch() as watch:
            for _ in range(n):
                began = clock()
                await call(tool, arguments)
                times.append(clock() - began)
        return summary(watch, times)

    async def crowd(self, n: int, width: int) -> Times:
        each = max(1, n // width)

        async def work() -> None:
            for _ in range(each):
                await self.client.call_tool(TINY, TINY_ARGUMENTS)

        with Watch() as watch:
            async with anyio.create_task_group() as group:
                for _ in range(width):
                    group.start_soon(work)
        return watch.per(each * width)

    async def flight(self, n: int, width: int) -> Times:
        with Watch() as watch:
            for _ in range(n):
                async with anyio.create_task_group() as group:
                    for _ in range(width):
                        group.start_soon(self.client.call_tool, TINY, TINY_ARGUMENTS)
        return watch.per(n * width)

    async def notifications(self, n: int, burst: int) -> Times:
        with Watch() as watch:
            for _ in range(n):
                self.missing, self.all_arrived = burst, anyio.Event()
                await self.client.call_tool("bench_notify", {"number": burst})
                with anyio.fail_after(10):
                    await self.all_arrived.wait()
        return watch.per(n * burst)

    async def connects(self, n: int) -> Times:
        times = []
        with Watch() as watch:
            for _ in range(n):
                began = time.perf_counter()
                async with client_of(self.server, "handshake") as client:
                    await client.call_tool(TINY, TINY_ARGUMENTS)
                times.append(time.perf_counter() - began)
        return summary(watch, times)

    async def idle(self, n: int) -> Times:
        before = footprint()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(n):
                await stack.enter_async_context(client_of(self.server, "handshake"))
            await anyio.sleep(OPENING_SECONDS)
            return growth(before, n)
