"""A Flask application that is an MCP server as well: its own pages, and /mcp, in one process.

With Flask's development server, or in earnest::

    flask --app examples/flask_app.py run
    gunicorn --threads 16 --chdir examples flask_app:app

Then ``Client("http://127.0.0.1:5000/mcp")``, or any other MCP client. With more than one gunicorn worker, give all of
them the same ``MCP_SYNC_SECRET_KEY``; and for clients before 2026-07-28 that want to be asked (elicitation, sampling) a
place that the workers share: ``server.wsgi_app(store=RedisSessionStore("redis://..."))``.
"""

import os
import threading

from flask import Flask, jsonify, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mcp_sync import BearerTokenAuth
from mcp_sync.server import Context, Server

app = Flask(__name__)
server = Server("notes", version="1.0", instructions="Keeps notes. The same notes are at /notes.")

notes: list[str] = []
lock = threading.Lock()


@app.get("/notes")
def all_notes():
    return jsonify(notes)


@app.post("/notes")
def new_note():
    return jsonify(number=add_note(request.get_json()["text"]))


@server.tool()
def add_note(text: str) -> int:
    """Keep a note; returns its number."""
    with lock:
        notes.append(text)
        number = len(notes)
    server.resource_updated("notes://all")
    return number


@server.tool()
def search_notes(word: str, context: Context) -> list[str]:
    """Find all notes that hold a word."""
    context.info(f"{context.principal or 'somebody'} looks for {word!r}")
    return [note for note in notes if word.lower() in note.lower()]


@server.resource("notes://all", mime_type="application/json")
def every_note() -> list[str]:
    """All notes."""
    return notes


# Who may: everybody on this machine, unless there is a token.
token = os.environ.get("NOTES_TOKEN")
mcp = server.wsgi_app(auth=BearerTokenAuth(token) if token else None)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mcp": mcp})
