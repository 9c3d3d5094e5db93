"""Optuna's dashboard of one study, for the person at this machine alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from lmcore.errors import UserError
from search.config import StudyConfig
from search.process import interruptible
from search.show.annotated import AnnotatedStorage, bundle_of
from search.study.context import StudyContext

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # by which a browser of this machine may call it
READING = ("GET", "HEAD")
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Bundles:
    """An artifact store of Optuna's: the bundles where they lie, under the keys of their
    measurements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        from bottle import HTTPError

        try:
            return bundle_of(self.folder, artifact_id).open("rb")
        except FileNotFoundError:
            raise HTTPError(404, "the cache has this bundle no more; export it") from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise NotImplementedError

    def remove(self, artifact_id: str) -> None:
        raise NotImplementedError


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told of."""


def serve(context: StudyContext[StudyConfig], port: int, tell: Callable[[str], None]) -> None:
    """Serve the dashboard on the loopback address until Ctrl-C. `tell` is given its address. With
    port 0, any free port is taken.

    Raises UserError where there is no such study, where the port is taken, and where
    optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError(
            "Optuna's dashboard is not installed; pip install 'lmpareto[dashboard]', or "
            "pip install optuna-dashboard, brings it"
        ) from None
    storage = AnnotatedStorage(context)
    app = guarded(wsgi(storage, artifact_store=_Bundles(storage.bundles)))
    try:
        server = make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"port: {port} cannot be served at ({said}); give another port=") from None
    with server:
        tell(f"http://{HOST}:{server.server_port}/dashboard/studies/{storage.study._study_id}")
        stop, thread = threading.Event(), threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with suppress(KeyboardInterrupt), interruptible(stop):
                stop.wait()
        finally:
            server.shutdown()
            thread.join()


def guarded(app: App) -> App:
    """The app for requests that only read and that a page of this machine made: a page from
    elsewhere may have its own name lead to this address."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        called = str(environ.get("HTTP_HOST", "")).rpartition(":")[0] or environ.get("HTTP_HOST")
        if called not in NAMES:
            reason = f"this dashboard is at http://{HOST} alone"
        elif environ["REQUEST_METHOD"] not in READING:
            reason = "this dashboard shows a study and changes nothing"
        else:
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return answer
