"""TransportManager: several named endpoints, of which each group is used as if it were one server that never fails.

=====================  ================================================================================================
event                  is told by ``on_health_event`` when
=====================  ================================================================================================
``healthy``            an endpoint works again: calls go there
``degraded``           calls to it fail, but not enough of them; or it has become slow
``unhealthy``          so many calls in a row failed that it is asked last
``failover``           a request to one endpoint was answered by another than the last one was
``session_lost``       a conversation goes on with another endpoint; what the server was told is told there again
``switched``           an endpoint was put aside by hand, or stands for itself again
``backup_failed``      the one that stood in for it does not work, so that it stands for itself again
``restarted``          an endpoint was connected anew by hand
=====================  ================================================================================================

Each is given a dict: ``endpoint``, ``group``, and what else there is to know.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..deadlines import DEFAULT_TIMEOUT, Deadline, as_timeout
from ..engine.caller import Caller, Incoming, Question
from ..engine.channel import EVENTS_SECONDS
from ..engine.connect import Introduction, closing_time
from ..engine.dispatch import Lane, Workers
from ..engine.lifetimes import close_when_forgotten, tell_of_forks
from ..exceptions import LocalProtocolError, MCPConnectionError, MCPError, NoEndpoint
from ..policies import flag, one_of, optional, seconds, whole
from ..protocol.messages import Notification
from .catalogue import Catalogue, Wanted
from .checks import Checks
from .endpoints import Endpoint, Group, Places, Reaches
from .failover import Failover, InTurn, share
from .health import LONGEST_PAUSE, Health
from .links import Leaving, Line
from .orderings import ORDERINGS
from .retry import SAFE_METHODS

if TYPE_CHECKING:
    from typing_extensions import Self

F = TypeVar("F", bound="Callable[[str, dict[str, Any]], Any]")


class Follower(Protocol):
    """Whoever wants to know of each endpoint, such as TransportMetrics."""

    def arrived(self, name: str, transport: Any) -> object:
        """Take note of an endpoint that is new."""


CLOSE_SECONDS = 5.0
"""How long closing may take unless told otherwise."""
CLOSERS, CHECKERS = 4, 8
"""How many connections are closed, and how many endpoints are checked, at once."""


class TransportManager:
    """Several named endpoints, of which each group is used as if it were one server that never fails.

    ::

        with TransportManager(health_check_interval=10.0) as manager:
            manager.register_transport("near", StdioTransport(["python", "server.py"]))
            manager.register_transport("far", HttpTransport("https://far.example/mcp"))
            with Client(manager.endpoint("near")) as client:  # goes on with "far" when "near" fails
                client.call_tool("add", {"a": 1, "b": 2})

    The endpoints of one group are alternatives of each other; no call ever leaves its group, and no endpoint is ever
    given the credentials of another. Each keeps the retries, the breaker and the reconnecting that its transport has.

    Threads: the process's one clock says when to check, up to CHECKERS threads ``mcp-health`` do it; up to CLOSERS
    threads ``mcp-manager`` close connections; ``mcp-manager-events`` runs what ``on_health_event`` was given. None of
    them starts before the first use, nor refers to the manager.
    Locks: ``_lock``, held for a few instructions.

    Args:
        default_timeout: Seconds that any call may take unless told otherwise.
        max_concurrent_connections: How many connections there may be at once, over all endpoints.
        health_check_interval: Seconds between two checks of an endpoint, and so the longest time until one that works
            again is used again; None: it is never checked, and found out by calls.
        enable_metrics: Whether calls are counted, for the report.
        load_balancing_strategy: Which endpoint of a group is used where none is named: ``round_robin``, ``weighted``,
            ``least_latency``, or ``priority``, which is the order of registration.
        failover_threshold: How many failures in a row make an endpoint unhealthy.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A value is out of range, or there is no such strategy.
    """

    def __init__(
        self,
        default_timeout: float = DEFAULT_TIMEOUT,
        max_concurrent_connections: int = 100,
        health_check_interval: float | None = 30.0,
        enable_metrics: bool = True,
        load_balancing_strategy: str = "round_robin",
        failover_threshold: int = 3,
    ) -> None:
        self.default_timeout = as_timeout(default_timeout, "default_timeout")
        interval = optional(seconds)("health_check_interval", health_check_interval)
        if interval is not None and interval <= 0:
            raise ValueError("health_check_interval must be above 0; None means never")
        if one_of("load_balancing_strategy", load_balancing_strategy, list(ORDERINGS)) is None:
            raise ValueError(f"load_balancing_strategy must be one of {', '.join(ORDERINGS)}, not None")
        self._metrics = flag("enable_metrics", enable_metrics)
        self._listeners = Listeners()
        self._fleet = Fleet(
            self._listeners,
            whole(1)("max_concurrent_connections", max_concurrent_connections),
            interval,
            load_balancing_strategy,
            whole(1)("failover_threshold", failover_threshold),
        )
        self._closed_properly: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<TransportManager {', '.join(map(repr, self._fleet.endpoints.values())) or 'without endpoints'}>"

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self, timeout: float | None = None) -> None:
        """End the checks and all connections, also those of clients. Idempotent, from any thread.

        Args:
            timeout: Seconds; None means 5.
        """
        self._fleet.close(Deadline(as_timeout(timeout, default=CLOSE_SECONDS)))
        if self._closed_properly is not None:
            self._closed_properly()

    def _begin(self) -> None:
        if self._fleet.begin():
            self._closed_properly = close_when_forgotten(self, self._fleet, "<TransportManager>")

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def register_transport(self, name: str, transport: Reaches, weight: int = 1, *, group: str = "default") -> None:
        """Add an endpoint.

        Args:
            name: Its name.
            transport: How to reach it: any transport.
            weight: Its share of the load, in comparison with the weights of the others (strategy ``weighted``).
            group: Those that are alternatives of each other have the same one.

        Raises:
            TypeError: It is no transport, or a name is none.
            ValueError: There is one of that name, or the weight is less than 1.
            MCPConnectionError: The manager is closed.
        """
        for what, value in (("name", name), ("group", group)):
            _checked_text(what, value)
        if isinstance(transport, type) or not callable(getattr(transport, "converse", None)):
            raise TypeError(f"transport must be a transport, such as StdioTransport([...]), not {transport!r}")
        self._fleet.add(name, transport, whole(1)("weight", weight), group)

    def unregister_transport(self, name: str, timeout: float | None = None) -> None:
        """Remove an endpoint, and end its connections; calls under way there fail.

        Args:
            name: Its name.
            timeout: Seconds; None means 5.

        Raises:
            NoEndpoint: There is none of that name.
        """
        self._fleet.remove(self._fleet.named(name), Deadline(as_timeout(timeout, default=CLOSE_SECONDS)))

    def endpoint(self, name: str) -> Entrance:
        """Return what ``Client(...)`` takes.

        A client's conversation begins with the endpoint of that name, goes on with another of its group when that one
        fails, and returns. With the name of a group, the strategy chooses where each conversation is at home; a name
        that an endpoint and a group share is the endpoint's.

        Raises:
            NoEndpoint: There is neither an endpoint nor a group of that name.
        """
        return Entrance(self, name, *self._fleet.found(name))

    def follow(self, follower: Follower) -> None:
        """Have ``follower.arrived(name, transport)`` called for every endpoint that is registered from now on.

        That is done when ``register_transport`` returns. The follower is held weakly.
        """
        self._fleet.follow(follower)

    # -- requests -----------------------------------------------------------------------------------------------------

    def send_request(
        self, name: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Ask, and return the result as it came. For conversations, which have a state, use ``Client(endpoint(name))``.

        Args:
            name: The endpoint to begin with; or a group, where the strategy chooses.
            method: The method, e.g. ``"tools/call"``.
            params: Its params.
            timeout: Seconds for all endpoints together; None means the manager's.

        Raises:
            NoEndpoint: There is neither an endpoint nor a group of that name.
            JSONRPCError: The server answered with an error.
            AllTransportsFailed: None of several could be asked.
            MCPTimeoutError: No answer within the timeout; ``may_have_run`` says whether it may have been done.
            MCPConnectionError: The connection ended; likewise.
        """
        _checked_text("method", method)
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict, not {type(params).__name__} ({params!r})")
        self._begin()
        deadline = Deadline(as_timeout(timeout, default=self.default_timeout))
        return self._fleet.ask(name, Question(method, params), deadline)

    def get_transport_for_capability(
        self, capability: str, timeout: float | None = None, *, group: str | None = None
    ) -> Entrance:
        """Return an endpoint that has a capability; of several, the one whose turn it is.

        What servers offer is looked up when it is first needed, and kept.

        Args:
            capability: ``"tools"``, ``"resources.subscribe"``, ``"tools.call:NAME"``, ``"prompts.get:NAME"``,
                ``"resources.read:URI"``.
            timeout: Seconds for all endpoints together; None means the manager's.
            group: Only those of this one.

        Returns:
            What ``endpoint`` returns: for ``Client(...)``, with ``name`` and ``transport``.

        Raises:
            NoEndpoint: None has it; the text says which could not be asked.
            ValueError: The capability makes no sense.
        """
        wanted = Wanted.read(capability)
        self._begin()
        deadline = Deadline(as_timeout(timeout, default=self.default_timeout))
        return self.endpoint(self._fleet.offering(wanted, capability, group, deadline).name)

    # -- by hand ------------------------------------------------------------------------------------------------------

    def restart_transport(self, name: str, timeout: float | None = None) -> None:
        """End all connections with an endpoint, and what is under way there; then connect again.

        Args:
            name: The endpoint.
            timeout: Seconds; None means the manager's.

        Raises:
            NoEndpoint: There is none of that name.
            MCPConnectionError: It cannot be connected again.
            MCPTimeoutError: Not within the timeout.
        """
        self._begin()
        self._fleet.restart(
            self._fleet.named(name), Deadline(as_timeout(timeout, default=self.default_timeout))
        )

    def refresh_auth(self, name: str, timeout: float | None = None) -> bool:
        """Have the auth provider of an endpoint's transport fetch new credentials; False: there is none, or none came.

        Args:
            name: The endpoint.
            timeout: Seconds; None means the manager's.

        Raises:
            NoEndpoint: There is none of that name.
            LocalProtocolError: Its transport has no credentials, or the provider failed.
            MCPTimeoutError: Not within the timeout.
        """
        endpoint = self._fleet.named(name)
        refresh = getattr(endpoint.transport, "refresh_auth", None)
        if refresh is None:
            raise LocalProtocolError(f"{name} ({endpoint.transport.name}) has no credentials that could be refreshed")
        renewed = bool(refresh(as_timeout(timeout, default=self.default_timeout)))
        if renewed:
            self._begin()
            self._fleet.checks.soon(endpoint)
        return renewed

    def switch_to_backup_transport(self, name: str | None = None) -> str:
        """Put an endpoint aside, so that another of its group stands for it; return that one's name.

        It holds until ``switch_back_transport``, or until the other one fails.

        Args:
            name: The endpoint, or a group; None: the one that comes first, where there is one group only.

        Raises:
            NoEndpoint: There is none of that name, or no alternative to it.
            ValueError: There are several groups.
        """
        groups = [one.name for one in self._fleet.groups.values() if len(one)]
        if name is None and len(groups) > 1:
            raise ValueError(f"there are several groups ({', '.join(groups)}); say which endpoint")
        group, home = self._fleet.found(name or next(iter(groups), "default"))
        aside, backup = group.switch(home)
        self._fleet.tell("switched", {"endpoint": aside, "moved_to": backup, "group": group.name})
        return backup

    def switch_back_transport(self, name: str) -> bool:
        """Let an endpoint that was put aside stand for itself again; False: it does.

        Raises:
            NoEndpoint: There is none of that name.
        """
        endpoint = self._fleet.named(name)
        if not endpoint.group.switch_back(name):
            return False
        self._fleet.tell("switched", {"endpoint": name, "moved_to": name, "group": endpoint.group.name})
        return True

    # -- health -------------------------------------------------------------------------------------------------------

    def on_health_event(self, function: F) -> F:
        """Call ``function(event, data)`` when something changes (module docstring); usable as a decorator.

        It runs on a thread for that, one after the other; one that raises is logged. While one takes its time, up to
        1000 events wait; further ones are dropped.
        """
        if not callable(function):
            raise TypeError(f"on_health_event wants a function, not {type(function).__name__}")
        self._listeners.append(function)
        return function

    def get_health_report(self) -> dict[str, dict[str, Any]]:
        """Return how each endpoint does, by its name.

        ``status`` (``healthy``, ``degraded``, ``unhealthy``), ``error_type`` and ``error`` of the last failure, or None
        since the last success; ``avg_latency`` in milliseconds, None before the first call; ``last_check`` in seconds
        since 1970, None before the first; ``consecutive_failures``, ``group``, ``weight``, ``transport``,
        ``connections``; and, with metrics, ``calls`` and ``failures``.
        """
        return {name: self._reported(endpoint) for name, endpoint in self._fleet.endpoints.items()}

    def _reported(self, endpoint: Endpoint) -> dict[str, Any]:
        report = endpoint.health.report()
        for figure in () if self._metrics else ("calls", "failures"):
            del report[figure]
        links = [line.link for line in list(endpoint.lines)]
        return {
            **report,
            "group": endpoint.group.name,
            "weight": endpoint.weight,
            "transport": endpoint.transport.name,
            "connections": sum(link is not None and not link.caller.over for link in links),
        }


def _checked_text(what: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{what} must be a str with something in it, not {value!r}")


class Entrance:
    """A way into a group of endpoints, for ``Client(...)``.

    Attributes:
        name: Of the endpoint where conversations begin, or of the group.
        timeout: Seconds that any call may take unless told otherwise.
        transport: That endpoint's transport; None for a group.
    """

    def __init__(self, manager: TransportManager, name: str, group: Group, home: str | None) -> None:
        self._manager = manager
        self._group = group
        self._home = home
        self.name = name
        self.timeout = manager.default_timeout
        self.transport = manager._fleet.endpoints[home].transport if home is not None else None

    def __repr__(self) -> str:
        return f"<Entrance {self.name}>"

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation with whichever endpoint can have it; raises as Failover.begin says."""
        self._manager._begin()
        home = self._home or self._group.choose().name
        return self._manager._fleet.converse(self._group, home, introduction, deadline)


class Listeners(list["Callable[[str, dict[str, Any]], Any]"]):
    """Whom to tell of events; a list that can be referred to weakly."""


class Fleet:
    """What is behind a manager: the endpoints, and the connections that are the manager's own.

    Threads and locks: as TransportManager says.
    """

    def __init__(
        self, listeners: Listeners, most: int, interval: float | None, strategy: str, threshold: int
    ) -> None:
        self._listeners = weakref.ref(listeners)
        self._interval = interval
        self._strategy = strategy
        self._threshold = threshold
        self._places = Places(most)
        self._events = Lane("mcp-manager-events", grace=EVENTS_SECONDS)
        self._closers = Workers("mcp-manager", CLOSERS)
        self._checkers = Workers("mcp-health", CHECKERS)
        self._leaving = Leaving(self._closers.offer)
        self.checks = Checks(interval, self._checkers.offer, self.line)
        self.endpoints: dict[str, Endpoint] = {}
        self.groups: weakref.WeakValueDictionary[str, Group] = weakref.WeakValueDictionary()  # endpoints hold them
        self._lines: dict[Endpoint, tuple[Line, _Overhearing]] = {}
        self._catalogues: dict[Endpoint, Catalogue] = {}
        self._answered_by: dict[str, str] = {}
        self._conversations: weakref.WeakSet[Failover] = weakref.WeakSet()
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._begun = False
        self._closing = False
        self._lock = threading.Lock()  # guards endpoints, groups, _lines, _conversations, _followers, _begun
        tell_of_forks(self)

    def begin(self) -> bool:
        """Check the endpoints from now on; False: they are, or never will be."""
        begun = self._begun
        if begun or self._closing:
            return False
        with self._lock:
            begun, self._begun = self._begun, True
            endpoints = list(self.endpoints.values())  # who comes later begins by itself
        if begun:
            return False
        for endpoint in endpoints:
            self.checks.begin(endpoint)
        return True

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell whoever wants to know of an event, soon."""
        for listener in tuple(self._listeners() or ()):
            self._events.offer(lambda listener=listener: listener(event, dict(data)))  # type: ignore[misc]

    # -- endpoints ----------------------------------------------------------------------------------------------------

    def add(self, name: str, transport: Reaches, weight: int, group_name: str) -> None:
        """Add an endpoint; raises ValueError where there is one of that name."""
        with self._lock:
            self._check_open()
            if name in self.endpoints:
                raise ValueError(f"there is an endpoint named {name!r} already: {self.endpoints[name].transport.name}")
            group = self.groups.get(group_name)
            if group is None:
                group = Group(group_name, ORDERINGS[self._strategy], self.tell)
                self.groups = weakref.WeakValueDictionary({**self.groups, group_name: group})
            health = Health(self._threshold, min(self._interval or LONGEST_PAUSE, LONGEST_PAUSE))
            endpoint = Endpoint(name, transport, weight, group, health, self._places)
            self.endpoints = {**self.endpoints, name: endpoint}
            group.add(endpoint)
            begun, followers = self._begun, list(self._followers)
        for follower in followers:
            follower.arrived(name, transport)
        if begun:
            self.checks.begin(endpoint)

    def follow(self, follower: Follower) -> None:
        """Tell a follower of every endpoint to come."""
        with self._lock:
            self._followers.add(follower)

    def remove(self, endpoint: Endpoint, deadline: Deadline) -> None:
        """Remove an endpoint, and close its connections."""
        with self._lock:
            endpoint.gone = True
            self.endpoints = {name: one for name, one in self.endpoints.items() if one is not endpoint}
            endpoint.group.remove(endpoint)
            self._lines.pop(endpoint, None)
            self._catalogues.pop(endpoint, None)
            self._answered_by.pop(endpoint.name, None)
        self.checks.end(endpoint)
        for line in list(endpoint.lines):
            line.close(deadline)

    def named(self, name: str) -> Endpoint:
        """Return the endpoint of a name; raises NoEndpoint."""
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            known = ", ".join(self.endpoints) or "none"
            raise NoEndpoint(f"no endpoint is named {name!r}; there are: {known}", may_have_run=False)
        return endpoint

    def found(self, name: str) -> tuple[Group, str | None]:
        """Return the group of an endpoint, and its name; or a group, and None. Raises NoEndpoint."""
        group = self.groups.get(name) if name not in self.endpoints else None
        return (group, None) if group is not None else (self.named(name).group, name)

    # -- connections --------------------------------------------------------------------------------------------------

    def line(self, endpoint: Endpoint) -> Line:
        """Return the manager's own line to an endpoint; raises MCPConnectionError where the manager is closed."""
        with self._lock:
            self._check_open()  # or it would be closed by nobody
            pair = self._lines.get(endpoint)
            if pair is None:
                ear = _Overhearing(lambda: self._catalogues.get(endpoint))
                pair = Line(endpoint, Introduction(), lambda: ear, self._leaving), ear
                self._lines[endpoint] = pair
            return pair[0]

    def converse(self, group: Group, home: str, introduction: Introduction, deadline: Deadline) -> Failover:
        """Begin a conversation; raises as Failover.begin says."""
        failover = Failover(group, home, introduction, self._closers.offer)
        with self._lock:
            self._check_open()
            self._conversations.add(failover)
        try:
            failover.begin(deadline)
        except BaseException as error:
            failover.close(Deadline(closing_time(error)))
            raise
        return failover

    def ask(self, name: str, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask an endpoint, or another of its group; raises as TransportManager.send_request says."""
        self._check_open()
        group, home = self.found(name)
        first = home or group.choose().name
        safe = question.method in SAFE_METHODS
        turn: InTurn[dict[str, Any]] = InTurn(question.method, safe, deadline)

        def attempt(line: Line, share: Deadline) -> dict[str, Any]:
            result = self._ask_at(line, question, share, share if safe else deadline)
            self._note_answer(name if home else first, line.endpoint, question.method)
            return result

        try:
            return turn.go([self.line(endpoint) for endpoint in group.order(first)], attempt)
        finally:
            if self._leaving.waiting:
                self._leaving.sweep()

    def _ask_at(self, line: Line, question: Question[Any], share: Deadline, patience: Deadline) -> dict[str, Any]:
        passage = line.endpoint.enter(patience.remaining)
        try:
            link = line.connected(share)
            link.spare = False
            began = time.monotonic()
            result = link.caller.call(question, patience)
        except BaseException as error:
            line.endpoint.failed(passage, error)
            raise
        line.endpoint.succeeded(passage, time.monotonic() - began)
        return result

    def _note_answer(self, asked: str, endpoint: Endpoint, method: str) -> None:
        before = self._answered_by.get(asked, asked)
        if before != endpoint.name:
            self._answered_by[asked] = endpoint.name
            data = {"endpoint": asked, "moved_to": endpoint.name, "method": method, "group": endpoint.group.name}
            self.tell("failover", data)

    def restart(self, endpoint: Endpoint, deadline: Deadline) -> None:
        """Connect every line anew that is connected; the manager's own if there is none."""
        self._check_open()
        open_lines = [line for line in list(endpoint.lines) if line.link is not None and not line.closed]
        lines = open_lines or [self.line(endpoint)]
        passage = endpoint.health.look()
        try:
            for number, line in enumerate(lines):
                _restart(line, share(deadline, len(lines) - number))
        except BaseException as error:
            endpoint.failed(passage, error)
            raise
        endpoint.lived(passage)
        self.tell("restarted", {"endpoint": endpoint.name, "group": endpoint.group.name})

    # -- what servers offer -------------------------------------------------------------------------------------------

    def offering(self, wanted: Wanted, text: str, group: str | None, deadline: Deadline) -> Endpoint:
        """Return the best endpoint that offers what is wanted; raises NoEndpoint."""
        self._check_open()
        groups = [self.found(group)[0]] if group is not None else list(self.groups.values())
        order = [endpoint for one in groups for endpoint in one.order(None)]
        unknown: list[str] = []
        for number, endpoint in enumerate(order):
            try:
                if self._catalogue(endpoint, share(deadline, len(order) - number), wanted):
                    endpoint.group.took(endpoint)
                    return endpoint
            except MCPError as error:
                unknown.append(f"{endpoint.name} could not be asked: {error}")
        why = "; ".join(unknown) or f"asked were: {', '.join(one.name for one in order) or 'none'}"
        raise NoEndpoint(f"no endpoint offers {text!r}; {why}", may_have_run=False)

    def _catalogue(self, endpoint: Endpoint, deadline: Deadline, wanted: Wanted) -> bool:
        passage = endpoint.enter(deadline.remaining)
        try:
            link = self.line(endpoint).connected(deadline)
            link.spare = False
            before = catalogue = self._catalogues.get(endpoint)
            if catalogue is None or catalogue.caller is not link.caller:
                catalogue = self._catalogues[endpoint] = Catalogue(link.caller)
            asked = catalogue.looked_up
            found = catalogue.offers(wanted, deadline)
        except BaseException as error:
            endpoint.failed(passage, error)
            raise
        if catalogue is not before or catalogue.looked_up != asked:
            endpoint.lived(passage)
        else:  # what is kept says nothing of the server of today
            endpoint.health.nothing_found(passage)
        return found

    # -- the end ------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closing:
            raise MCPConnectionError("the manager is closed", details={"phase": "closed"}, may_have_run=False)

    @property
    def over(self) -> bool:
        """Whether it has been closed."""
        return self._closing

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end all connections, and wait for nothing."""
        self._closing = True
        self.checks.stop()
        for one in self._open():
            one.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """End all connections, and every thread. Idempotent."""
        self.hang_up(deadline)
        for one in self._open():
            one.close(deadline)
        self._leaving.close(deadline)
        for workers in (self._checkers, self._closers):
            workers.close(deadline)
        self._events.close(deadline)

    def _open(self) -> list[Failover | Line]:
        with self._lock:
            return [*self._conversations, *(line for line, _ in self._lines.values())]

    def forked(self) -> None:
        """In a forked child: the connections are the parent's; what is asked next makes new ones."""
        self._lock = threading.Lock()  # guards as before
        self._lines, self._catalogues = {}, {}
        self._conversations = weakref.WeakSet()
        for part in (self._places, self._events, self._closers, self._checkers, self._leaving, self.checks):
            part.forked()
        for group in self.groups.values():
            group.forked()
        self._begun = False


def _restart(line: Line, deadline: Deadline) -> None:
    try:
        line.restart(deadline)
    except MCPError:
        if not line.closed:  # else whose it was has just closed it, and wants no other
            raise


class _Overhearing:
    """The Handler of the manager's own connections: it hears that lists have changed, and offers nothing."""

    def __init__(self, catalogue: Callable[[], Catalogue | None]) -> None:
        self._catalogue = catalogue

    def offers(self, method: str) -> bool:
        """Nothing."""
        return False

    def request(self, incoming: Incoming) -> dict[str, Any] | None:
        """Never called: nothing is offered."""
        return None

    def notification(self, notification: Notification) -> None:
        """Take note of a change."""
        catalogue = self._catalogue()
        if catalogue is not None:
            catalogue.overhear(notification)

    def closed(self, error: MCPError) -> None:
        """A new connection has a new catalogue."""
