"""A container of ours on a Docker engine, from before it is created until it has been removed.

Source: Docker Engine API; FAULTS.md, B17 and B19.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.lifetimes import close_at_exit, tell_of_forks
from ..exceptions import MCPConnectionError, MCPError
from . import owners
from .container import Attachment, Verdict
from .dockerd import Engine, attachment, bindings, repository_of

log = logging.getLogger("mcp_sync")

VERDICT_PAUSE = 0.01
"""Seconds between two looks whether the engine knows already that a container has ended."""
LATE_PAUSES = (0.0, 0.3, 0.7)
"""Seconds before each attempt to remove what a request may have created that was not answered in time."""
TOKEN = "mcp-sync.token"
"""The label by which a container is found whose number we were never told."""


@dataclass(frozen=True)
class Settings:
    """What a container is to be like.

    Attributes:
        image: The image.
        create: Keywords of the SDK's ``create_container``.
        host: Keywords of the SDK's ``HostConfig``.
        ports: As on a command line: ``127.0.0.1:8080:80/tcp``.
        pull: ``missing``, ``never`` or ``always``.
        secrets: What must not be shown in errors.
    """

    image: str
    create: Mapping[str, Any] = field(repr=False)
    host: Mapping[str, Any]
    ports: Sequence[str] | Mapping[str, Any] = ()
    pull: str = "never"
    secrets: Sequence[str] = field(default=(), repr=False)


class Container:
    """One container of ours, from before it is created until it has been removed.

    Threads: one at a time: the one that dials, then the reader; ``remove`` and what the exit calls, any.
    Locks: ``_removing`` is held while removing, acquired with the deadline.

    Args:
        engine: Where it is.
        settings: What it is to be like.
        token: What tells it from all others.

    Attributes:
        engine: As given.
        id: What the engine calls it, once it is created.
        lead: Returns whoever ends it in the proper way: hangs up, and closes. None: nobody does, or not any more.
        left: Whether it could not be removed.
    """

    def __init__(self, engine: Engine, settings: Settings, token: str) -> None:
        self.engine = engine
        self.id = ""
        self.lead: Callable[[], Any] = lambda: None
        self.left = False
        self._settings = settings
        self._token = token
        self._named_by_us = "name" not in settings.create
        self._name = settings.create.get("name") or f"mcp-sync-{token}"
        self._begun = False
        self._gone = False
        self._pauses: tuple[float, ...] = LATE_PAUSES
        self._removing = threading.RLock()  # guards _gone
        self._done: Callable[[], object] = lambda: None
        tell_of_forks(self)

    # -- its beginning ------------------------------------------------------------------------------------------------

    def create(self, deadline: Deadline) -> None:
        """Create it, having pulled its image if that is wanted."""
        settings = self._settings
        if settings.pull == "always":
            self._pull(deadline)
        try:
            self._create(deadline)
        except MCPConnectionError as error:
            if error.details.get("status") != 404 or "no such image" not in str(error).lower():
                raise
            if settings.pull != "missing":
                raise self._no_image(error) from error
            self._pull(deadline)
            self._create(deadline)

    def _create(self, deadline: Deadline) -> None:
        settings, options = self._settings, dict(self._settings.create)
        labels = {**options.pop("labels", {}), **owners.ourselves().labels(), TOKEN: self._token}
        published = bindings(settings.ports)
        if published:
            options["ports"] = [tuple(port.split("/", 1)) for port in sorted(published)]

        def create(api: Any) -> Any:
            host = api.create_host_config(**settings.host, **({"port_bindings": published} if published else {}))
            options.update(name=self._name, labels=labels, host_config=host, stdin_open=True, tty=False)
            return api.create_container(settings.image, **options)["Id"]

        self._begun = True
        self._done = close_at_exit(self)
        try:
            self.id = str(self.engine.ask(f"create a container of {settings.image}", deadline, create))
        except MCPConnectionError as error:
            if 400 <= error.details.get("status", 0) < 500:
                self._begun = False  # it was refused
                self._done()
            raise

    def _pull(self, deadline: Deadline) -> None:
        image = self._settings.image
        repository, tag = repository_of(image)

        def pull(api: Any) -> None:
            for report in api.pull(repository, tag=tag, stream=True, decode=True):
                if "error" in report:
                    raise MCPConnectionError(
                        f"the Docker engine at {self.engine.address} did not pull {image}: {report['error']}",
                        details={"transport": "docker", "image": image, "phase": "connect"},
                        may_have_run=False,
                    )

        self.engine.ask(f"pull {image}", deadline, pull)

    def _no_image(self, error: MCPConnectionError) -> MCPConnectionError:
        image = self._settings.image
        text = (
            f"there is no image {image!r} on the Docker engine at {self.engine.address}; check the spelling, "
            f"pull it (docker pull {image}), or let it be pulled: pull='missing'"
        )
        return MCPConnectionError(text, details={**error.details, "image": image}, may_have_run=False)

    def attach(self, deadline: Deadline) -> Attachment:
        """Attach to its streams; before it is started, or what it says first is lost (B17)."""
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        found: list[Attachment] = []

        def attach(api: Any) -> None:
            found.append(attachment(api, api.attach_socket(self.id, streams)))

        try:
            self.engine.ask("attach to the container", deadline, attach)
        except BaseException:
            for one in found:
                one.close()
            raise
        return found[0]

    def start(self, deadline: Deadline) -> None:
        """Start it."""
        self.engine.ask(f"start a container of {self._settings.image}", deadline, lambda api: api.start(self.id))

    # -- its end ------------------------------------------------------------------------------------------------------

    def look(self, deadline: Deadline) -> Verdict:
        """Return what the engine knows of it now; never raises."""
        try:
            about = self.engine.ask("tell of the container", deadline, lambda api: api.inspect_container(self.id))
            state = about["State"]
            return Verdict(
                running=bool(state["Running"]),
                status=int(state["ExitCode"]),
                out_of_memory=bool(state.get("OOMKilled")),
                stop_signal=str(about.get("Config", {}).get("StopSignal") or "SIGTERM"),
            )
        except MCPError as error:
            return Verdict(trouble=str(error), removed=error.details.get("status") == 404)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return Verdict(trouble=f"the answer of its engine makes no sense ({error!r})")

    def verdict(self, deadline: Deadline) -> Verdict:
        """Return how it ended, once the engine knows; never raises."""
        while True:
            verdict = self.look(deadline)
            if not verdict.running or deadline.remaining <= VERDICT_PAUSE:
                return verdict
            interrupts.Event().wait(VERDICT_PAUSE)

    def signal(self, signal: str, deadline: Deadline) -> None:
        """Send its main process a signal; what has ended already is not told."""
        try:
            self.engine.ask("send a signal", deadline, lambda api: api.kill(self.id, signal))
        except MCPError as error:
            log.debug("container %.12s: %s", self.id, error)

    def remove(self, deadline: Deadline) -> bool:
        """Remove it, running or not; False: it could not be. Idempotent."""
        if not self._removing.acquire(timeout=deadline.remaining):
            return False
        try:
            if self._begun and not self._gone:
                self._gone = self._removed(deadline)
                self.left = not self._gone
        finally:
            self._removing.release()
        if self._gone or not self._begun:
            self._done()
        return self._gone or not self._begun

    def _removed(self, deadline: Deadline) -> bool:
        try:
            if self.id:
                self.engine.remove(self.id, deadline)
                return True
            return self._remove_unnumbered(deadline)
        except MCPError as error:
            level = logging.DEBUG if self.left else logging.WARNING  # it has been said
            log.log(level, "container %s was not removed: %s; try docker rm -f %s", self._name, error, self._name)
            return False

    def _remove_unnumbered(self, deadline: Deadline) -> bool:
        """Remove what a request that was not answered may have created, now or in a moment."""
        pauses, self._pauses = self._pauses, (0.0,)  # by the next time it is there, or never will be
        for pause in pauses:
            interrupts.Event().wait(min(pause, deadline.remaining))
            for reference in [self._name] if self._named_by_us else self._found(deadline):
                if self.engine.remove(reference, deadline):
                    return True
        return len(pauses) == 1

    def _found(self, deadline: Deadline) -> list[str]:
        """Return what the engine calls it: a name that the user chose may be somebody else's."""
        wanted = {"label": [f"{TOKEN}={self._token}"]}
        found = self.engine.ask("list containers", deadline, lambda api: api.containers(all=True, filters=wanted))
        return [one["Id"] for one in found]

    def leave(self) -> None:
        """Leave the engine."""
        self.engine.close()

    # -- the interpreter's exit ---------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it is gone."""
        return self._gone

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""
        lead = self.lead()
        if lead is not None:
            lead.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """End it in the proper way if there is one, and else at once."""
        lead = self.lead()
        if lead is not None:
            lead.close(deadline)
        elif self.id:
            self.remove(deadline)

    def forked(self) -> None:
        """In a forked child: it is the parent's."""
        self._removing = threading.RLock()  # guards as before; the old one may be held by a thread that stayed behind
        self._gone = True
