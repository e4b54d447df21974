"""What is asked of a Docker engine, through its SDK; the only module that imports that.

Every request has a deadline. The SDK has a timeout for each single read only, so the sockets of its connections are
kept at hand, and shut down when the time has come. A client that the user hands over is not touched: the requests go
over connections of our own, made with its settings.

Source: Docker Engine API; docker SDK, ``APIClient``, ``attach_socket`` (FAULTS.md, B16 to B19).
"""

from __future__ import annotations

import copy
import errno
import inspect
import logging
import os
import socket
import ssl
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import docker
import docker.constants
import docker.errors
import docker.transport
import docker.types
import docker.utils
import docker.utils.ports

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import reaper
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, TooManyRequests
from ..protocol.redact import mask, redact_url
from . import owners
from .container import Attachment

log = logging.getLogger("mcp_sync")

R = TypeVar("R")

LEAST_SECONDS = 0.001
"""The shortest timeout that the SDK takes."""
SWEEP_SHARE = 0.25
"""Share of the time to connect that removing what dead processes left may take ..."""
SWEEP_SECONDS = 3.0
"""... and how many seconds at most."""
REMOVE_PAUSES = (0.05, 0.3)
"""Seconds between attempts to remove a container: an engine may be busy with it, or have closed our connection."""
FULL_PAUSE = 0.02
"""Seconds between two attempts to connect to an engine that has no room for one more."""


def create_keywords() -> frozenset[str]:
    """Return the keywords that the SDK knows for creating a container and are not its host's affair."""
    return frozenset(inspect.signature(docker.APIClient.create_container).parameters) - {"self", "host_config"}


def host_keywords() -> frozenset[str]:
    """Return those that are."""
    return frozenset(inspect.signature(docker.types.HostConfig.__init__).parameters) - {"self", "version"}


def check_host(keywords: Mapping[str, Any]) -> None:
    """Check the values of what is the host's affair; raises TypeError or ValueError."""
    try:
        docker.types.HostConfig(version=docker.constants.DEFAULT_DOCKER_API_VERSION, **keywords)
    except docker.errors.DockerException as error:
        raise ValueError(str(error)) from error


class _Line(docker.APIClient):
    """The SDK's client with connections that are known, and a deadline for every request.

    Attributes:
        sockets: Those of the connections that are open, as far as we made them.
        deadline: For the request under way.
    """

    def __init__(self, deadline: Deadline, **about: Any) -> None:
        self.sockets: list[socket.socket] = []
        self.deadline = deadline
        self._own: list[Any] = []
        self._trusting = False
        super().__init__(version=docker.constants.DEFAULT_DOCKER_API_VERSION, **about)  # "auto" would ask here and now

    def speak_its_version(self) -> None:
        """Ask the engine which version it speaks."""
        self._version = str(self.version(api_version=False)["ApiVersion"])

    @classmethod
    def like(cls, given: docker.APIClient, deadline: Deadline) -> _Line:
        """Return one that is like another, with connections of its own where we know how to make them."""
        self = cls.__new__(cls)
        self.__dict__.update(given.__dict__)
        self.sockets = []
        self.deadline = deadline
        self._own = []
        self._trusting = True
        fresh = {id(adapter): self._renewed(adapter) for adapter in _adapters(given)}
        self.adapters = OrderedDict((prefix, fresh[id(one)]) for prefix, one in given.adapters.items())
        custom = getattr(given, "_custom_adapter", None)
        if custom is not None:
            vars(self)["_custom_adapter"] = fresh[id(custom)]
        return self

    def _renewed(self, adapter: Any) -> Any:
        if type(adapter) is docker.transport.UnixHTTPAdapter:
            fresh: Any = docker.transport.UnixHTTPAdapter(f"http+unix://{adapter.socket_path}", adapter.timeout)
        elif type(adapter).__module__ == "requests.adapters":
            fresh = copy.copy(adapter)  # with a pool of its own
        else:
            return adapter  # somebody knows better
        self._own.append(fresh)
        self._attend(fresh)
        return fresh

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> Any:
        """Send one request; every one of the SDK comes by here."""
        if not self._trusting:
            self.trust_env = False  # the engine is never reached through a proxy, and netrc is none of its business
        options["timeout"] = max(LEAST_SECONDS, self.deadline.remaining)
        return super().request(method, url, *args, **options)

    def get_adapter(self, url: Any) -> Any:
        """Return what connects."""
        adapter = super().get_adapter(url)
        if not self._trusting and adapter not in self._own:
            self._own.append(adapter)
            self._attend(adapter)
        return adapter

    def _attend(self, adapter: Any) -> None:
        """Take note of every socket that the adapter opens."""
        find_pool = adapter.get_connection_with_tls_context

        def pool_of(*args: Any, **options: Any) -> Any:
            pool = find_pool(*args, **options)
            if "_new_conn" not in vars(pool):
                make = pool._new_conn
                pool._new_conn = lambda: self._noting(make())
            return pool

        adapter.get_connection_with_tls_context = pool_of

    def _noting(self, connection: Any) -> Any:
        connect, path = connection.connect, getattr(connection, "unix_socket", None)

        def connect_and_note() -> None:
            if path is None:
                connect()
            else:
                connection.sock = _unix_socket(path, self.deadline)
            self.sockets = [one for one in self.sockets if one.fileno() >= 0]
            self.sockets.append(connection.sock)

        connection.connect = connect_and_note
        return connection

    def shut_down(self) -> None:
        """End what is under way; by any thread."""
        for one in list(self.sockets):
            try:
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # not the TLS socket's own, which is not for two threads
            except OSError:
                pass  # closed already

    def close(self) -> None:
        """Close our connections."""
        for adapter in self._own or _adapters(self):
            adapter.close()
        for one in self.sockets:
            one.close()
        self.sockets = []

    def disown(self) -> None:
        """In a forked child: close our copies, whatever locks the SDK may have held."""
        for one in self.sockets:
            descriptor = one.detach() if one.fileno() >= 0 else -1
            if descriptor >= 0:
                os.close(descriptor)
        self.sockets = []


def _unix_socket(path: str, deadline: Deadline) -> socket.socket:
    """Connect; the SDK forgets a socket that cannot, and does not wait for an engine with a full house."""
    one = socket.socket(socket.AF_UNIX)
    try:
        while True:
            one.settimeout(max(LEAST_SECONDS, deadline.remaining))
            try:
                one.connect(path)
                return one
            except BlockingIOError:
                if deadline.expired:
                    raise TimeoutError("the engine accepts no connection") from None
            interrupts.Event().wait(min(FULL_PAUSE, deadline.remaining))
    except BaseException:
        one.close()
        raise


def _adapters(client: Any) -> list[Any]:
    custom = getattr(client, "_custom_adapter", None)
    return [*client.adapters.values(), *([custom] if custom is not None else [])]


class Engine:
    """A Docker engine.

    Threads: ``ask`` blocks until the engine has answered, at most the deadline; ``hurry`` does not wait.
    Locks: ``_asking`` is held while one thing is asked, acquired with the deadline.

    Args:
        given: The user's client, or None: whatever DOCKER_HOST and its like, or the current context, say.
        secrets: What must not be shown in errors.
    """

    def __init__(self, given: Any = None, secrets: Sequence[str] = ()) -> None:
        self._given = getattr(given, "api", given)
        self._secrets = secrets
        self._asking = threading.RLock()  # guards _api: it has one deadline at a time
        self._api: Any = None
        self._under_way: object = None
        self._was_cut: object = None
        self.address = ""
        tell_of_forks(self)

    def connect(self, deadline: Deadline) -> None:
        """Reach the engine, and find out which version it speaks."""
        if self._given is not None:
            self.address = _address_of(self._given)
            _check_reachable(self.address, "the client")
            self._api = _Line.like(self._given, deadline)
        else:
            about = self._explaining("be found", deadline, _surroundings)
            self.address = about.get("base_url") or "unix:///var/run/docker.sock"
            _check_reachable(self.address, "DOCKER_HOST")
            self._api = self._explaining("be found", deadline, lambda: _Line(deadline, **about))
        self.ask("say its version", deadline, lambda api: api.speak_its_version())

    def ask(self, step: str, deadline: Deadline, work: Callable[[Any], R]) -> R:
        """Ask the engine for something.

        Args:
            step: What it is to do, for messages: "create the container".
            deadline: By when.
            work: Is given the SDK's client.

        Raises:
            MCPConnectionError: It cannot be reached, or refuses; ``details["status"]`` is what it answered.
            MCPTimeoutError: Not by the deadline.
        """
        if not self._asking.acquire(timeout=deadline.remaining):
            raise MCPTimeoutError(f"another thread is still asking the Docker engine at {self.address}")
        try:
            self._api.deadline = deadline
            return self._explaining(step, deadline, lambda: work(self._api))
        finally:
            self._asking.release()

    def _explaining(self, step: str, deadline: Deadline, work: Callable[[], R]) -> R:
        outer = sys.exc_info()[1]
        self._under_way = under_way = object()
        alarm = self._alarm(deadline, under_way)
        try:
            found = work()
            if self._was_cut is under_way:  # the beginning of an answer may have been taken for the whole
                raise TimeoutError
            return found
        except MCPError:
            raise
        except Exception as error:  # the SDK, requests, urllib3 and json each have their own
            raise self._explained(error, list(_causes(error, outer)), step, deadline) from error
        finally:
            self._under_way = None
            if alarm is not None:
                reaper.call_off(alarm)

    def _alarm(self, deadline: Deadline, under_way: object) -> Any:
        try:
            return reaper.at(deadline, lambda: self._cut(under_way))
        except TooManyRequests:  # the interpreter exits
            return None

    def _cut(self, under_way: object) -> None:
        if self._under_way is under_way and self._api is not None:
            self._was_cut = under_way
            self._api.shut_down()

    def hurry(self, deadline: Deadline) -> None:
        """End what is being asked at this deadline; what is asked after that is not concerned."""
        under_way = self._under_way
        if under_way is not None:
            self._alarm(deadline, under_way)

    def _explained(self, error: Exception, causes: Sequence[BaseException], step: str, deadline: Deadline) -> MCPError:
        details: dict[str, Any] = {"transport": "docker", "engine": self.address, "phase": "connect", "step": step}
        if isinstance(error, docker.errors.APIError) and error.status_code is not None:
            said = mask(" ".join(str(error.explanation or error).split()), self._secrets)
            text = f"the Docker engine at {self.address} did not {step}: {said}{_hint(said)}"
            return MCPConnectionError(text, details={**details, "status": error.status_code}, may_have_run=False)
        if deadline.remaining < 0.01 or any(isinstance(cause, TimeoutError) for cause in causes):
            text = f"the Docker engine at {self.address} did not {step} within {deadline.limit:g} s"
            return MCPTimeoutError(text, details={**details, "limit": deadline.limit}, may_have_run=False)
        text = f"the Docker engine cannot be asked to {step}: {self._trouble(error, causes)}"
        return MCPConnectionError(text, details=details, may_have_run=False)

    def _trouble(self, error: Exception, causes: Sequence[BaseException]) -> str:
        where = self.address
        # The numbers of TLS errors are OpenSSL's own.
        systems = [one for one in causes if isinstance(one, OSError) and not isinstance(one, ssl.SSLError)]
        numbers = [one.errno for one in systems]
        if errno.EACCES in numbers or errno.EPERM in numbers:
            return (
                f"this user may not use {where}; join the group that owns it (often 'docker', after which a new login "
                "is needed), or use a rootless engine and set DOCKER_HOST"
            )
        if errno.ENOENT in numbers or errno.ECONNREFUSED in numbers:
            return f"no engine listens at {where}; start it, or set DOCKER_HOST to where it is"
        if errno.EMFILE in numbers or errno.ENFILE in numbers:
            return "too many open files; close what is not needed, or raise the limit (ulimit -n)"
        text = mask(redact_url(" ".join(str(error).split())), self._secrets)
        return f"{text or type(error).__name__} (at {where})"

    def close(self) -> None:
        """Close the connections to it."""
        if self._api is not None:
            self._api.close()

    def forked(self) -> None:
        """In a forked child: close our copies of the connections."""
        self._asking = threading.RLock()  # guards as before; the old one may be held by a thread that stayed behind
        if self._api is not None:
            self._api.disown()

    # -- what dead processes left -------------------------------------------------------------------------------------

    def sweep(self, deadline: Deadline) -> None:
        """Remove the containers of processes that are provably dead; what cannot be removed now is left."""
        us = owners.ourselves()
        whole = deadline.sooner(min(deadline.remaining * SWEEP_SHARE, SWEEP_SECONDS))
        try:
            wanted = {"label": [f"{owners.HOST}={us.host}"]}
            for found in self.ask("list containers", whole, lambda api: api.containers(all=True, filters=wanted)):
                if owners.is_dead(found.get("Labels") or {}, us):
                    self._remove_left(found["Id"], whole)
        except (MCPError, AttributeError, KeyError, TypeError) as error:
            log.warning("what dead processes may have left on the Docker engine was not removed: %s", error)

    def _remove_left(self, reference: str, deadline: Deadline) -> None:
        log.info("removing container %.12s, whose owner is dead", reference)
        try:
            self.remove(reference, deadline)
        except MCPConnectionError as error:
            log.warning("container %.12s, whose owner is dead, was not removed: %s", reference, error)

    def remove(self, reference: str, deadline: Deadline) -> bool:
        """Remove a container whatever its state, with its anonymous volumes; False: there is none."""
        pauses = list(REMOVE_PAUSES)
        while True:
            try:
                self.ask(
                    "remove the container", deadline, lambda api: api.remove_container(reference, True, force=True)
                )
                return True
            except MCPConnectionError as error:
                if error.details.get("status") == 404:
                    return False
                if "already in progress" in str(error):
                    return True
                if not pauses or deadline.remaining <= pauses[0]:
                    raise
            interrupts.Event().wait(pauses.pop(0))


def attachment(api: Any, hijacked: Any) -> Attachment:
    """Return the connection that became ours, taken out of the SDK's wrappings (B16)."""
    raw = getattr(hijacked, "_sock", hijacked)
    response: Any = getattr(hijacked, "_response", None)
    if not isinstance(raw, socket.socket):
        text = f"a {type(raw).__name__} cannot be waited for; reach the engine by unix:// or tcp://"
        raise MCPConnectionError(text, details={"transport": "docker", "phase": "connect"}, may_have_run=False)
    api.sockets = [one for one in api.sockets if one is not raw]
    raw.setblocking(False)
    try:
        early: bytes = response.raw._fp.fp.peek()  # what came with the head of the reply
    except (OSError, ValueError, AttributeError):
        early = b""
    return Attachment(raw, early or b"", [response.close] if response is not None else [])


def bindings(ports: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return ports as the SDK's HostConfig takes them."""
    if isinstance(ports, Mapping):
        return {port if "/" in str(port) else f"{port}/tcp": where for port, where in ports.items()}
    found: dict[str, Any] = docker.utils.ports.build_port_bindings(list(ports))
    return {port if "/" in port else f"{port}/tcp": where for port, where in found.items()}


def repository_of(image: str) -> tuple[str, str]:
    """Return an image's repository, and its tag or digest; without one the engine would pull them all."""
    repository, tag = docker.utils.parse_repository_tag(image)
    return repository, tag or "latest"


def _surroundings() -> dict[str, Any]:
    """Return what the environment says of the engine: DOCKER_HOST and its like, or else the current context."""
    about: dict[str, Any] = {**docker.utils.kwargs_from_env()}
    from_context = getattr(docker.ContextAPI, "kwargs_from_context", None)  # since 7.2
    if "base_url" not in about and from_context is not None:
        about = {**from_context(environment=os.environ), **about}
    return about


def _address_of(api: Any) -> str:
    path = getattr(getattr(api, "_custom_adapter", None), "socket_path", None)
    return f"unix://{path}" if path else redact_url(str(api.base_url))


def _check_reachable(address: str, source: str) -> None:
    if address.startswith(("ssh://", "http+docker://ssh")):
        text = (
            f"{source} is {redact_url(address)}: a connection by ssh can neither be waited for nor half closed; "
            "forward the engine's socket (ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST) and set "
            "DOCKER_HOST=unix:///tmp/docker.sock"
        )
        raise MCPConnectionError(text, details={"transport": "docker", "phase": "connect"}, may_have_run=False)


def _causes(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that led to it, wherever its library has put them; not what was being handled before."""
    seen: list[BaseException | None] = [outer]
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


_HINTS = {
    "port is already allocated": "another container has that port",
    "address already in use": "another program has that port",
    "executable file not found": "the image has no such program; check command",
    "is already in use by container": "leave out name, or remove the other container",
}


def _hint(said: str) -> str:
    return next((f"; {hint}" for words, hint in _HINTS.items() if words in said), "")
