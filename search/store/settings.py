"""Where trials are stored, and how a URL is shown without its passwords."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lmcore.errors import UserError
from lmcore.settings import Settings


def secrets(url: URL) -> list[str]:
    """The passwords that a URL holds: before its host, or in its query."""
    named = [str(url.query[name]) for name in _secret_names(url)]
    return [str(url.password), *named] if url.password else named


def _secret_names(url: URL) -> list[str]:
    """postgresql:///DATABASE?host=FOLDER&user=ada&password=...; drivers take sslpassword too."""
    return [name for name in url.query if "passw" in name.lower()]


class StorageSettings(Settings):
    """Where trials are stored: any SQLAlchemy URL.

    `lease` is in seconds. A worker that has not renewed its lease for that long loses its trial to
    another. A database that is away is waited for just as long.
    """

    url: str
    lease: Annotated[float, Field(gt=0)] = 600.0

    @property
    def resolved(self) -> URL:
        """The URL, with a file's ~ resolved."""
        url = make_url(self.url)
        if url.database and url.get_backend_name() == "sqlite":
            return url.set(database=str(Path(url.database).expanduser()))
        return url

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database; None in memory, for a URI (file:...) and on a server."""
        url = self.resolved
        in_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        return None if not in_file or "uri" in url.query else Path(str(url.database))

    @property
    def shown(self) -> str:
        """The URL without its password, for logs and messages."""
        url = self.resolved
        return url.difference_update_query(_secret_names(url)).render_as_string(hide_password=True)

    def check(self) -> None:
        """Raises UserError for a malformed URL, without showing it: it may hold a password."""
        try:
            host = make_url(self.url).host or ""
        except (ArgumentError, ValueError):
            raise UserError(
                "storage.url: this is no SQLAlchemy URL; it takes for example "
                "sqlite:////FOLDER/studies.db or postgresql://USER@HOST/DATABASE"
            ) from None
        if "@" in host:
            raise UserError("storage.url: write the @ in a password as %40")
