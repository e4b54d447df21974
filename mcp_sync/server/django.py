"""Django: a URL pattern for a server.

::

    # urls.py
    from mcp_sync.server.django import mcp_path
    from shop.tools import server

    urlpatterns = [mcp_path("mcp", server), ...]

Requests pass the site's middleware, and then ours: ALLOWED_HOSTS is in force, the user that the site has found out is
the principal, SECRET_KEY signs the state of multi-round requests, and database connections are kept and closed by
CONN_MAX_AGE, also on the threads that tools run on. Run it under a host with threads (gunicorn's gthread, waitress).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..engine.lifetimes import tell_of_forks
from ..policies import unexpected_keyword
from .security import TransportSecuritySettings
from .wsgi import WsgiApp

if TYPE_CHECKING:
    from .app import Server

PRINCIPAL = "mcp_sync.principal"


def mcp_path(
    route: str, server: Server, *, name: str | None = "mcp", login_required: bool = False, **options: Any
) -> Any:
    """Return a URL pattern that leads to a server.

    Args:
        route: Where, as in ``django.urls.path``; a slash at its end is optional in requests.
        server: The server.
        name: The name of the pattern.
        login_required: Whether somebody whom the site does not know gets 401.
        **options: As ``mcp_sync.server.wsgi.WsgiApp``, but for ``allowed_hosts``, which the settings have.

    Raises:
        ImportError: Django is not installed.
        TypeError: An option means nothing here.
    """
    import re

    from django.urls import re_path  # type: ignore[import-untyped]

    pattern = rf"^{re.escape(route.strip('/'))}/?$"
    return re_path(pattern, view(server, login_required=login_required, **options), name=name)


def view(server: Server, *, login_required: bool = False, **options: Any) -> Callable[..., Any]:
    """Return a view that is a server; made on its first request, for the settings may not be ready before.

    Args:
        server: The server.
        login_required: Whether somebody whom the site does not know gets 401.
        **options: As ``mcp_sync.server.wsgi.WsgiApp``.
    """
    app = _Once(server, _checked(options), login_required)

    def answer(request: Any, *args: Any, **kwargs: Any) -> Any:
        request.get_host()  # raises DisallowedHost, which Django makes a 400 of
        return _answered(app(), request, _principal(request))

    answer.csrf_exempt = True  # type: ignore[attr-defined]  # Origin is checked instead; clients have no cookies
    return answer


class _Once:
    """Makes the application when it is first called, for then the settings are ready; once, however many call.

    Locks: ``_lock``, held while it is made.
    """

    def __init__(self, server: Server, options: Mapping[str, Any], login_required: bool) -> None:
        self._server, self._options, self._login_required = server, options, login_required
        self._made: list[WsgiApp] = []
        self.forked()

    def forked(self) -> None:
        """Be as new but for the application: at first, and in a forked child."""
        self._lock = threading.Lock()  # guards _made
        tell_of_forks(self)

    def __call__(self) -> WsgiApp:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(_app(self._server, self._options, self._login_required))
        return self._made[0]


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options, if all of them mean something here; what is wrong is told with the URL patterns."""
    known = set(signature(WsgiApp).parameters) - {"server", "login_required", "allowed_hosts"}
    for option in options:
        if option == "allowed_hosts":
            raise TypeError("Django checks the Host: extend ALLOWED_HOSTS in the settings")
        if option not in known:
            raise TypeError(unexpected_keyword("mcp_path", option, known))
    if "security" in options and "allowed_origins" in options:
        raise TypeError("give allowed_origins to TransportSecuritySettings, or without security=")
    return options


def _app(server: Server, options: Mapping[str, Any], login_required: bool) -> WsgiApp:
    from django.conf import settings  # type: ignore[import-untyped]

    known: dict[str, Any] = {"secret_key": settings.SECRET_KEY, "identify": _identify, "around": _connections}
    if "security" not in options:  # the Host is Django's to check, and was
        pages = options.get("allowed_origins", ())
        known["security"] = TransportSecuritySettings(allowed_hosts=["*"], allowed_origins=pages)
    own = {key: value for key, value in options.items() if key != "allowed_origins"}
    return WsgiApp(server, login_required=login_required, **{**known, **own})


def _identify(environ: Mapping[str, Any]) -> str | None:
    principal = environ.get(PRINCIPAL)
    return principal if isinstance(principal, str) else None


def _principal(request: Any) -> str | None:
    user = getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated else None


def _answered(app: WsgiApp, request: Any, principal: str | None) -> Any:
    environ = {
        **request.META,
        "SCRIPT_NAME": request.META.get("SCRIPT_NAME", "") + request.path_info.rstrip("/"),
        "PATH_INFO": "",
        "wsgi.input": request,  # which knows whether a middleware has read the body already
        PRINCIPAL: principal,
    }
    begun: list[tuple[int, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> object:
        begun.append((int(status.split()[0]), headers))
        return None

    body = app(environ, start_response)
    status, headers = begun[0]
    return _response(status, headers, body)


def _response(status: int, headers: Iterable[tuple[str, str]], body: Iterable[bytes]) -> Any:
    from django.http import HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]

    if hasattr(body, "close"):
        response: Any = StreamingHttpResponse(body, status=status)
        response["Content-Encoding"] = "identity"  # or GZipMiddleware would hold events back until there are many
    else:
        response = HttpResponse(b"".join(body), status=status)
        del response["Content-Type"]
    for key, value in headers:
        response[key] = value
    return response


@contextmanager
def _connections() -> Iterator[None]:
    """Let connections be as in a request of Django: none that is too old or broken before, nor after."""
    from django.db import close_old_connections  # type: ignore[import-untyped]

    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
