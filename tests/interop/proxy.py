"""nginx in front of servers: a configuration of a test's own, each site on a port of its own."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from peers import install
from peers.running import PATIENCE, Running, accepts, free_port, running, until

CONFIGURATION = """
{user}
worker_processes 1;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
http {{
    access_log access.log;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {sites}
}}
"""


@dataclass
class Proxy:
    """nginx as it is running: the port of each site."""

    ports: dict[str, int]
    process: Running

    def origin(self, site: str, scheme: str = "http", host: str = "127.0.0.1") -> str:
        """The URL of a site without its path."""
        return f"{scheme}://{host}:{self.ports[site]}"

    def url(self, site: str, scheme: str = "http", host: str = "127.0.0.1") -> str:
        """The MCP endpoint of a site."""
        return f"{self.origin(site, scheme, host)}/mcp"


@contextmanager
def proxying(folder: Path, sites: Mapping[str, str]) -> Iterator[Proxy]:
    """Start nginx, which is killed at the end.

    Args:
        folder: For its configuration, and whatever it writes.
        sites: By name, what stands in the ``server`` block; ``HERE`` in it becomes address and port.
    """
    try:
        install.demand("nginx")
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    folder.mkdir(parents=True)
    ports: dict[str, int] = {}

    def command(port: int) -> list[str]:
        chosen = [port, *(free_port() for _ in range(len(sites) - 1))]
        ports.update(zip(sites, chosen, strict=True))
        blocks = (f"server {{ {text.replace('HERE', f'127.0.0.1:{ports[name]}')} }}" for name, text in sites.items())
        file = folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(user=_user(), sites="\n    ".join(blocks)))
        return [str(install.nginx()), "-p", str(folder), "-c", str(file), "-g", "daemon off;"]

    with running(command, folder / "process") as process:
        assert until(lambda: all(accepts(port) for port in ports.values()), PATIENCE), process.output
        yield Proxy(ports, process)


def _user() -> str:
    """Whom the workers run as; root's would be nobody, who may not write into our folder."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
