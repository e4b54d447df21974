"""Docker: a server that runs in a container, spoken to over the container's stdin and stdout."""

from __future__ import annotations

import inspect
import os
import re
import secrets
import shlex
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

from ..deadlines import Deadline
from ..engine.channel import Channel, PipeChannel
from ..engine.connect import INTERRUPTED_SECONDS
from ..exceptions import MCPTransportError
from ..observe import ContainerStarted
from ..policies import (
    Grace,
    Limits,
    Restart,
    encodable,
    gather,
    number,
    one_of,
    unexpected_keyword,
    variables,
    with_knobs,
)
from ..protocol.redact import secrets_of
from .making import Making
from .outlet import Outlet, line_writer
from .restarting import RestartingTransport

if TYPE_CHECKING:
    import docker

    from .contained import Container, Settings

KINDS = (Limits, Grace, Restart)

PROCESSES = 512
"""How many processes and threads a container may have unless told otherwise."""
REMOVE_SECONDS = 5.0
"""How long removing a container may take after a failure to start it."""

OURS = {
    "tty": "a terminal has no frames, echoes what is written to it, and mixes stderr into the messages",
    "stdin_open": "stdin is always open: messages are written to it",
    "detach": "the transport attaches to the container",
    "auto_remove": "the transport removes the container itself, once it knows how it ended",
    "restart_policy": "use max_restarts and restart_delay, which begin a new conversation as well",
    "environment": "use env",
    "host_config": "give its keywords themselves, such as mem_limit=...",
    "binds": "use volumes",
    "port_bindings": "use ports",
}
"""Keywords of the SDK that would break the conversation, or are called otherwise here; each with the reason."""

COMMAND_LINE = {
    **dict.fromkeys(("-e", "--env"), "env={'NAME': 'value'}"),
    **dict.fromkeys(("-v", "--volume"), "volumes=['/host:/container:ro']"),
    **dict.fromkeys(("-p", "--publish"), "ports=['8080:8080']"),
    **dict.fromkeys(("--network", "--net"), "network='none'"),
    **dict.fromkeys(("-m", "--memory"), "memory_limit_mb=512"),
    **dict.fromkeys(("-u", "--user"), "user='1000'"),
    **dict.fromkeys(("-w", "--workdir"), "working_dir='/work'"),
    **dict.fromkeys(("-h", "--hostname"), "hostname='name'"),
    **dict.fromkeys(("-l", "--label"), "labels={'name': 'value'}"),
    **dict.fromkeys(("-i", "--interactive", "--rm"), "nothing: it is always so"),
    **dict.fromkeys(("-t", "--tty"), "nothing: a terminal has no frames, and echoes"),
    "-it": "nothing: stdin is always open, and there is never a terminal",
    "--cpus": "cpu_limit_percent=150",
    "--mount": "mounts=[...]",
    "--gpus": "device_requests=[...]",
    "--add-host": "extra_hosts={...}",
    "--device": "devices=[...]",
    "--ulimit": "ulimits=[...]",
    "--pull": "pull='missing'",
}
"""What takes the place of options of ``docker run``; of others the name, with underscores."""

_IMAGE = re.compile(r"[A-Za-z0-9][^\s\x00-\x1f]*")
_PORT = re.compile(
    r"(?:(?:\[[0-9a-fA-F:]+\]|\d{1,3}(?:\.\d{1,3}){3}):)?(?:\d{0,5}(?:-\d{1,5})?:)?\d{1,5}(?:-\d{1,5})?(?:/(?:tcp|udp|sctp))?"
)


@with_knobs(*KINDS)
class DockerTransport(RestartingTransport):
    """Reaches a server by starting it in a container of its own, on a Docker engine.

    The engine is found as the command line finds it: ``DOCKER_HOST`` and ``DOCKER_TLS_VERIFY``, ``DOCKER_CERT_PATH``,
    or the current context; or it is that of a ``docker.DockerClient`` that is handed over. Over TLS the server's stdin
    cannot be closed alone, so disconnecting begins with the stop signal. ``ssh://`` is refused.

    Unless told otherwise the container has no capabilities, gains no privileges, has at most 512 processes, an init
    process, no log, and the engine's default network. It is removed, with its anonymous volumes, when the connection
    ends, whatever the reason, and when the interpreter exits. What a process left behind that was killed is removed
    by the next one that connects from the same host; a host is known by its machine id and its name.

    Disconnecting closes its stdin, waits, sends the image's stop signal, waits, kills. What it writes to stderr is
    always drained; the end of it is in the ``details["stderr"]`` of errors, beside ``exit_status``, ``out_of_memory``.

    Args:
        image: The image, as after ``docker run``.
        command: What to run in it, as a list, or a str to be split like a shell does; None is what the image says.
        env: Variables to set in the container's environment.
        volumes: What of the engine's host, or which named volumes, the container sees:
            ``["/host:/container:ro"]``, or a dict as the SDK takes it. ``~`` and ``.`` are this process's.
        ports: Which of its ports are to be reached on the engine's host: ``["8080:8080", "127.0.0.1:9000:80/tcp"]``,
            or a dict as the SDK takes it.
        network: The network to join; ``"none"``: no network at all, which starts twice as fast.
        pull: ``"never"`` takes only an image that is there, ``"missing"`` pulls one that is not, ``"always"`` pulls
            first; within the timeout.
        memory_limit_mb: Memory in MiB, swap included; past that the server is killed.
        cpu_limit_percent: Processor time; 100 is one processor.
        timeout: Seconds that any call may take unless told otherwise; None means 30.
        stderr: Where each line of its stderr goes, as for ``StdioTransport``.
        client: A ``docker.DockerClient`` whose settings to use; it is neither used itself nor closed.
        policies: Policies given whole, in place of the keywords below.
        **knobs: ``max_message_size`` (bytes of one message, default 16 MiB), ``max_pending_messages``,
            ``max_backlog``, ``max_concurrent_callbacks`` (``mcp_sync.policies.Limits``); ``shutdown_timeout`` (seconds,
            default 5: ``Grace``); ``max_restarts``, ``restart_delay`` (``Restart``); and whatever the SDK's
            ``containers.create`` takes: ``user``, ``cap_add``, ``mounts``, ``read_only``, ``tmpfs``, ``labels`` ...

    Raises:
        TypeError: A keyword is misspelt or foreign, or a value has the wrong type.
        ValueError: A value is out of range, or two of them contradict each other.
    """

    transport_type: ClassVar[str] = "docker"

    def __init__(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[str] | Mapping[str, Any] | None = None,
        ports: Sequence[str] | Mapping[str, Any] | None = None,
        network: str | None = None,
        pull: str = "never",
        memory_limit_mb: float | None = None,
        cpu_limit_percent: float | None = None,
        timeout: float | None = None,
        stderr: Any = None,
        client: docker.DockerClient | None = None,
        policies: Sequence[Any] | None = None,
        **knobs: Any,
    ) -> None:
        known = {part.metadata["knob"] for kind in KINDS for part in fields(kind)}
        extra = {name: knobs.pop(name) for name in set(knobs) - known}
        super().__init__(timeout, gather(DockerTransport, KINDS, policies, knobs))
        self.image = _image(image)
        self.command = _command(command)
        self.env = variables("env", env)
        self.volumes = _volumes(volumes)
        self.ports = _ports(ports)
        self.network = _network(network, self.ports, extra)
        self._pull = one_of("pull", pull, ("missing", "never", "always")) or "never"
        self._memory = None if memory_limit_mb is None else number(6, 1e9)("memory_limit_mb", memory_limit_mb)
        self._processor = None if cpu_limit_percent is None else number(1, 1e6)("cpu_limit_percent", cpu_limit_percent)
        self._stderr = line_writer(stderr)
        self._client = _checked_client(client)
        self._extra = self._checked(extra)
        self._containers: list[Container] = []

    @property
    def name(self) -> str:
        """The image, as a URL."""
        return f"docker://{self.image}"

    # -- what is wanted -----------------------------------------------------------------------------------------------

    @classmethod
    def further_keywords(cls) -> set[str]:
        """Return the keywords that it takes beside those in its signature: the SDK's, and those with a hint."""
        from .dockerd import create_keywords, host_keywords

        return {*create_keywords(), *host_keywords(), *OURS, "docker_args"}

    def _checked(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Check what is meant for the SDK, which is only asked if there is anything."""
        if not extra:
            return {}
        if "docker_args" in extra:
            raise TypeError(_instead_of(extra["docker_args"]))
        for name in OURS.keys() & extra.keys():
            if name != "tty" or extra[name]:
                raise ValueError(f"{name}={extra[name]!r} is not possible: {OURS[name]}")
        from .dockerd import check_host, host_keywords

        further = self.further_keywords()
        for name in extra:
            if name not in further:
                known = {*further, *inspect.signature(DockerTransport).parameters} - {"docker_args", "tty"}
                raise TypeError(unexpected_keyword("DockerTransport", name, known))
        if self._memory is not None and "mem_limit" in extra:
            raise TypeError("give memory_limit_mb or mem_limit, not both: they mean the same")
        if self._processor is not None and "nano_cpus" in extra:
            raise TypeError("give cpu_limit_percent or nano_cpus, not both: they mean the same")
        check_host({name: value for name, value in extra.items() if name in host_keywords()})
        return {name: value for name, value in extra.items() if name != "tty"}

    def _settings(self) -> Settings:
        from .contained import Settings
        from .dockerd import create_keywords, host_keywords

        host: dict[str, Any] = {
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "pids_limit": PROCESSES,
            "init": True,
            "log_config": {"type": "none", "config": {}},
        }
        if self.volumes:
            host["binds"] = self.volumes
        if self.network is not None:
            host["network_mode"] = self.network
        if self._memory is not None:
            host["mem_limit"] = host["memswap_limit"] = int(self._memory * (1 << 20))
        if self._processor is not None:
            host["nano_cpus"] = int(self._processor * 10_000_000)
        host.update((name, value) for name, value in self._extra.items() if name in host_keywords())
        create: dict[str, Any] = {"command": self.command, "environment": self.env or None}
        if self.network == "none":
            create["network_disabled"] = True
        create.update((name, value) for name, value in self._extra.items() if name in create_keywords())
        create["labels"] = _labels(create.get("labels"))
        return Settings(self.image, create, host, self.ports, self._pull, self._secrets())

    def _secrets(self) -> list[str]:
        return secrets_of(self.env)

    # -- the connection -----------------------------------------------------------------------------------------------

    def dial(self, deadline: Deadline) -> Channel:
        """Create the container, attach to it, start it.

        Raises:
            MCPConnectionError: The engine cannot be reached, or refuses; the text says what to try.
            MCPTimeoutError: Not by the deadline.
            MCPTransportError: Not on this platform.
        """
        if sys.platform == "win32":
            raise MCPTransportError("Docker is not supported on Windows yet", may_have_run=False)
        from .contained import Container
        from .dockerd import Engine

        engine = Engine(self._client, self._secrets())
        container = Container(engine, self._settings(), secrets.token_hex(8))
        making = Making[PipeChannel](
            "mcp-docker-start",
            lambda making: self._start(making, container, deadline),
            lambda channel: channel.close(Deadline(INTERRUPTED_SECONDS)),
            engine.hurry,
        )
        return making.result(deadline, lambda: f"a container of {self.image} on the engine at {engine.address}")

    def _start(self, making: Making[PipeChannel], container: Container, deadline: Deadline) -> PipeChannel:
        engine = container.engine
        making.otherwise(engine.close)
        engine.connect(deadline)
        making.check()
        self._clear_up(container, deadline)
        making.check()
        making.otherwise(lambda: container.remove(Deadline(REMOVE_SECONDS)))
        container.create(deadline)
        making.check()
        attachment = container.attach(deadline)
        making.otherwise(attachment.close)
        making.check()
        container.start(deadline)
        making.check()
        return self._channel_to(container, attachment)

    def _clear_up(self, container: Container, deadline: Deadline) -> None:
        """Remove what dead processes left, and what we could not remove before."""
        container.engine.sweep(deadline)
        for one in self._containers:
            if one.left:
                one.remove(deadline)
                one.leave()
        self._containers = [*(one for one in self._containers if not one.over), container]

    def _channel_to(self, container: Container, attachment: Any) -> PipeChannel:
        from .container import ContainerPipe

        limits = self._policies[Limits]
        about: dict[str, Any] = {"image": self.image, "engine": container.engine.address}
        if self._memory is not None:
            about["memory_limit_mb"] = self._memory
        pipe = ContainerPipe(
            container,
            attachment,
            self.name,
            limits.message_size,
            self._policies[Grace].seconds,
            self._secrets(),
            about,
        )
        channel = PipeChannel(pipe, limits, self._observers, threads=f"docker-{container.id[:12]}")
        container.lead = weakref.ref(channel)
        pipe.feed = channel.feed
        if self._stderr is not None:
            pipe.asides.outlet = Outlet(self._stderr, channel.events)
        channel.feed.emit(ContainerStarted(self.name, container.id))
        return channel


class UrlDockerTransport(DockerTransport):
    """Reaches a server in a container that a URL describes: ``docker://image:tag?env=NAME=value&network=none``.

    ``env``, ``volume`` and ``port`` may be repeated; ``env=NAME`` passes on our own variable. Keywords win.

    Args:
        url: The URL. What is in it is percent-encoded, and a plus sign is a plus sign.
        **knobs: As DockerTransport.
    """

    __signature__ = inspect.signature(DockerTransport)

    def __init__(self, url: str, **knobs: Any) -> None:
        image, said = _read_url(url)
        env = {**said.pop("env", {}), **variables("env", knobs.pop("env", None))}
        super().__init__(image, **{"env": env, **said, **knobs})


# -- what users hand over ---------------------------------------------------------------------------------------------


def _image(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"image must be a str, not {type(value).__name__} ({value!r})")
    if not _IMAGE.fullmatch(value):
        raise ValueError(f"image must be the name of an image, such as 'mcp/fetch:latest', not {value!r}")
    return value


def _command(value: object) -> list[str] | None:
    if value is None:
        return None
    words = shlex.split(value) if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not words or not all(isinstance(word, str) for word in words):
        raise TypeError(f"command must be a str or a list of str, not {type(value).__name__} ({value!r})")
    return [encodable("command", word) for word in words]


def _volumes(value: object) -> list[str] | dict[str, Any]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"volumes must be a list such as ['/host:/container'], not {type(value).__name__} ({value!r})")
    return [_volume(item) for item in value]


def _volume(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"volumes must hold only str, not {value!r}")
    source, colon, rest = value.partition(":")
    target, _, options = rest.partition(":")
    if not colon or not source or not target.startswith("/") or ":" in options:
        raise ValueError(f"volumes: {value!r} is not of the form '/host:/container' or '/host:/container:ro'")
    if source[0] in "~.":
        source = os.path.abspath(os.path.expanduser(source))
    return f"{source}:{rest}"


def _ports(value: object) -> list[str] | dict[str, Any]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"ports must be a list such as ['8080:8080'], not {type(value).__name__} ({value!r})")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"ports must hold only str, not {item!r}; write '8080:8080'")
        if not _PORT.fullmatch(item) or any(int(found) > 65535 for found in re.findall(r"\d{5,}", item)):
            raise ValueError(f"ports: {item!r} is not of the form '8080:80', '127.0.0.1:8080:80/tcp' or '80'")
    return list(value)


def _network(network: object, ports: object, extra: dict[str, Any]) -> str | None:
    if "network_mode" in extra:
        if network is not None:
            raise TypeError("give network or network_mode, not both: they mean the same")
        network = extra.pop("network_mode")
    if extra.get("network_disabled") and ports:
        raise ValueError("ports cannot be reached with network_disabled=True; leave out one of them")
    if network is None:
        return None
    if not isinstance(network, str) or not network:
        raise TypeError(f"network must be the name of a network, not {type(network).__name__} ({network!r})")
    if network == "none" and ports:
        raise ValueError("ports cannot be reached with network='none'; leave out one of them")
    return network


def _labels(value: Any) -> dict[str, str]:
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    return dict.fromkeys(value, "")


def _checked_client(value: Any) -> Any:
    api = getattr(value, "api", value)
    if value is not None and not callable(getattr(api, "attach_socket", None)):
        raise TypeError(f"client must be a docker.DockerClient, not {type(value).__name__}")
    return value


def _read_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return the image and the keywords that a URL means."""
    place, _, query = url.partition("?")
    said: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        name, value = unquote(name), unquote(value)
        if name == "env":
            variable, given, text = value.partition("=")
            said.setdefault("env", {})[variable] = text if given else _inherited(variable)
        elif name.removesuffix("s") in ("volume", "port"):
            said.setdefault(f"{name.removesuffix('s')}s", []).append(value)
        elif name in ("memory_limit_mb", "cpu_limit_percent"):
            said[name] = _figure(name, value)
        elif name in ("command", "network", "pull"):
            said[name] = value
        else:
            known = "env, volume, port, network, command, pull, memory_limit_mb or cpu_limit_percent"
            raise ValueError(f"a docker:// URL has no part {name!r}; it may have {known}")
    return unquote(place[len("docker://") :]), said


def _inherited(variable: str) -> str:
    if variable not in os.environ:
        raise ValueError(f"the docker:// URL passes on the variable {variable!r}, which is not set")
    return os.environ[variable]


def _figure(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name} must be a number, not {value!r} (in a docker:// URL)") from None


def _instead_of(arguments: object) -> str:
    """Return what to write in place of arguments of the command line."""
    words = shlex.split(arguments) if isinstance(arguments, str) else list(arguments or ())  # type: ignore[call-overload]
    options = [str(word).partition("=")[0] for word in words if str(word).startswith("-")]
    hints = [f"{option}: {COMMAND_LINE.get(option) or _keyword(option)}" for option in dict.fromkeys(options)]
    said = "; ".join(hints) or "env=..., volumes=..., ports=..., network=..., user=..., mounts=..."
    return f"docker_args is for the command line, which is not used; write keywords instead ({said})"


def _keyword(option: str) -> str:
    return f"{option.lstrip('-').replace('-', '_')}=..."
