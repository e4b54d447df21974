"""A Django site that is an MCP server as well: a model, a query of the ORM as a tool, users of Django's own.

Set it up once, then run it with Django's development server, or in earnest::

    python examples/django_app.py setup                 # makes a database with a few books, and the user reader/reader
    python examples/django_app.py runserver 8000
    gunicorn --threads 16 --chdir examples django_app:application

    Client("http://127.0.0.1:8000/mcp", headers={"Authorization": "Basic " + b64encode(b"reader:reader").decode()})

A site of yours has models.py, urls.py and the rest in files of their own; here it is all in one. The database is
BOOKS_DATABASE, else books.sqlite3 in the working directory.
"""

import base64
import binascii
import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application

settings.configure(
    DEBUG=False,
    SECRET_KEY=os.environ.get("SECRET_KEY", "only for this example"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.gzip.GZipMiddleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("BOOKS_DATABASE", "books.sqlite3"),
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
settings.MIDDLEWARE.append(f"{__name__}.basic_authentication")
django.setup()

from django.contrib.auth import authenticate, get_user_model  # noqa: E402
from django.contrib.auth.models import AnonymousUser  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.crypto import salted_hmac  # noqa: E402

from mcp_sync.server import Context, Server  # noqa: E402
from mcp_sync.server.django import mcp_path  # noqa: E402


class Book(models.Model):
    title = models.CharField(max_length=200)
    author = models.CharField(max_length=200)
    year = models.IntegerField()

    class Meta:
        app_label = "books"


def basic_authentication(get_response):
    """Find the user by HTTP's own login (RFC 7617); a site with sessions has Django's AuthenticationMiddleware."""

    def middleware(request):
        request.user = user_of(request.headers.get("Authorization", "")) or AnonymousUser()
        return get_response(request)

    return middleware


def user_of(header):
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    key = salted_hmac("basic", header).hexdigest()
    known = cache.get(key)  # to check a password takes a while, on purpose; a client logs in with every request
    if known is not None:
        return get_user_model().objects.filter(pk=known, is_active=True).first()
    try:
        name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    user = authenticate(username=name, password=password)
    if user is not None:
        cache.set(key, user.pk, timeout=60)
    return user


server = Server("library", version="1.0", instructions="Finds books.")


@server.tool()
def find_books(context: Context, author: str = "", since: int = 0) -> list[dict[str, str | int]]:
    """Find books.

    Args:
        context: Filled in by us; no part of the schema.
        author: A part of the author's name.
        since: The first year.
    """
    found = Book.objects.filter(author__icontains=author, year__gte=since).order_by("year")
    context.info(f"user {context.principal} found {found.count()} books")
    return list(found.values("title", "author", "year"))


@server.tool()
def add_book(title: str, author: str, year: int) -> int:
    """Add a book; returns how many there are."""
    Book.objects.create(title=title, author=author, year=year)
    return Book.objects.count()


@server.resource("books://{title}")
def book(title: str) -> dict[str, str | int]:
    """A book by its title."""
    return Book.objects.values("title", "author", "year").get(title=title)


urlpatterns = [
    path("books", lambda request: JsonResponse({"books": list(Book.objects.values("title", "author", "year"))})),
    mcp_path("mcp", server, login_required=True),
]
application = get_wsgi_application()


def setup():
    execute_from_command_line(["django_app.py", "migrate", "--verbosity=0"])
    if "books_book" not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Book)
        Book.objects.create(title="Emma", author="Jane Austen", year=1815)
        Book.objects.create(title="Persuasion", author="Jane Austen", year=1817)
        Book.objects.create(title="Middlemarch", author="George Eliot", year=1871)
    if not get_user_model().objects.filter(username="reader").exists():
        get_user_model().objects.create_user("reader", password="reader")


if __name__ == "__main__":
    if sys.argv[1:] == ["setup"]:
        setup()
    else:
        execute_from_command_line(["django_app.py", *sys.argv[1:], "--noreload"])
