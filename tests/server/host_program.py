"""A program that serves one small WSGI application under a web server of one's choice: KIND PORT [FOLDER].

Paths: ``/facts`` says what ``mcp_sync.server.hosts`` finds out; ``/steady`` looks again and again, and answers all the
same; ``/wait`` waits until the client is gone; ``/noticed`` says how often that began, and ended so. FOLDER has
cert.pem and key.pem.
"""

import importlib.metadata
import json
import os
import socketserver
import ssl
import sys
import threading
from wsgiref import simple_server

from mcp_sync.server.hosts import client_gone, threads_of

PATIENCE = 20.0
PAUSE = 0.02
LOOKS = 50
THREADS = 5
BEGUN, NOTICED = [], []


def application(environ, start_response):
    path = environ["PATH_INFO"]
    gone = client_gone(environ)
    if path == "/facts":
        found = {"threads": threads_of(environ, start_response), "gone": gone(), "version": version()}
    elif path == "/steady":
        found = {"gone": [gone() for _ in range(LOOKS)]}
    elif path == "/wait":
        BEGUN.append(path)
        found = {"gone": wait(gone)}
        NOTICED.append(found["gone"])
    else:
        found = {"begun": len(BEGUN), "noticed": NOTICED.count(True)}
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def wait(gone):
    pause = threading.Event()
    for _ in range(int(PATIENCE / PAUSE)):
        if gone():
            return True
        pause.wait(PAUSE)
    return False


def version():
    library = KIND.partition("-")[0]
    return importlib.metadata.version(library) if library not in ("wsgiref", "ours") else sys.version.split()[0]


# -- hosts ------------------------------------------------------------------------------------------------------------


def waitress(port, **more):
    import waitress

    waitress.serve(application, host="127.0.0.1", port=port, threads=THREADS, **more)


def gunicorn(port, *more, app="application"):
    how = ["--worker-class", "gthread", "--threads", str(THREADS), "--bind", f"127.0.0.1:{port}", *more]
    where = ["--chdir", os.path.dirname(os.path.abspath(__file__)), f"host_program:{app}"]
    os.environ["HOST_KIND"] = KIND
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *how, *where])


def cheroot(port):
    from cheroot.wsgi import Server

    Server(("127.0.0.1", port), application, numthreads=THREADS).start()


def werkzeug(port, **more):
    from werkzeug.serving import make_server

    make_server("127.0.0.1", port, application, **more).serve_forever()


def werkzeug_tls(port):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*papers())
    werkzeug(port, threaded=True, ssl_context=context)


def papers():
    return [os.path.join(sys.argv[3], name) for name in ("cert.pem", "key.pem")]


class Threaded(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


def wsgiref(port, kind=simple_server.WSGIServer):
    simple_server.make_server("127.0.0.1", port, application, kind).serve_forever()


def ours(port):
    from mcp_sync.server.hosting import HttpHost

    HttpHost(application, port=port, threads=THREADS).run()


def view(request):
    """Pass a request on as ``mcp_sync.server.django`` does: the environment is a copy, start_response is no host's."""
    from django.http import HttpResponse

    environ = {**request.META, "wsgi.input": request}
    return HttpResponse(b"".join(application(environ, lambda status, headers: None)), content_type="application/json")


def site():
    """What Django shall serve: the view, at every path."""
    from django.conf import settings
    from django.urls import re_path

    urls = type(sys)("host_urls")
    urls.urlpatterns = [re_path("", view)]
    sys.modules["host_urls"] = urls
    settings.configure(ROOT_URLCONF="host_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="of a test", DEBUG=True)


def django_site(environ, start_response):
    global SITE
    if SITE is None:
        from django.core.wsgi import get_wsgi_application

        site()
        SITE = get_wsgi_application()
    return SITE(environ, start_response)


SITE = None


def django(port, *more):
    from django.core.management import execute_from_command_line

    site()
    execute_from_command_line(["program", "runserver", "--noreload", "--skip-checks", *more, f"127.0.0.1:{port}"])


HOSTS = {
    "waitress": waitress,
    "waitress-lookahead": lambda port: waitress(port, channel_request_lookahead=1),
    "gunicorn": gunicorn,
    "gunicorn-sync": lambda port: gunicorn(port, "--threads", "1", "--worker-class", "sync"),
    "gunicorn-tls": lambda port: gunicorn(port, "--certfile", papers()[0], "--keyfile", papers()[1]),
    "gunicorn-django": lambda port: gunicorn(port, app="django_site"),
    "cheroot": cheroot,
    "werkzeug": lambda port: werkzeug(port, threaded=True),
    "werkzeug-single": werkzeug,
    "werkzeug-tls": werkzeug_tls,
    "wsgiref": wsgiref,
    "wsgiref-threaded": lambda port: wsgiref(port, Threaded),
    "django": django,
    "django-single": lambda port: django(port, "--nothreading"),
    "ours": ours,
}
KIND = sys.argv[1] if __name__ == "__main__" else os.environ.get("HOST_KIND", "")

if __name__ == "__main__":
    HOSTS[KIND](int(sys.argv[2]))
