"""Where trials are stored, and how a URL is shown without its passwords."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from lmcore.errors import UserError
from lmcore.files import home_opened
from lmcore.settings import PathText, Settings


def secrets(url: URL) -> list[str]:
    """The passwords that a URL holds: before its host, or in its query."""
    named = [str(url.query[name]) for name in _secret_names(url)]
    return [str(url.password), *named] if url.password else named


def _secret_names(url: URL) -> list[str]:
    """postgresql:///DATABASE?host=FOLDER&user=ada&password=...; drivers take sslpassword too."""
    return [name for name in url.query if "passw" in name.lower()]


Url = Annotated[str, "SQLAlchemy"]


class StorageSettings(Settings):
    """Where trials are stored: any SQLAlchemy URL, or without one the SQLite database in the file
    `path`.

    `lease` is in seconds. A worker that has not renewed its lease for that long loses its trial to
    another. A database that is away is waited for just as long.
    """

    url: Url | None = None
    path: PathText | None = None
    lease: Annotated[float, Field(gt=0)] = 600.0

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.url is None and self.path is None:
            raise ValueError("it takes a url, or the path of a file")
        return self

    @property
    def resolved(self) -> URL:
        """The URL of the database, with a file's ~ resolved."""
        if self.url is None:
            return URL.create("sqlite", database=self.path)
        url = make_url(self.url)
        if url.database and url.get_backend_name() == "sqlite":
            return url.set(database=home_opened(url.database))
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
        examples = "sqlite:////FOLDER/studies.db or postgresql://USER@HOST/DATABASE"
        try:
            url = self.resolved
        except (ArgumentError, ValueError):
            raise UserError(
                f"storage.url: this is no SQLAlchemy URL; it takes for example {examples}"
            ) from None
        if "@" in (url.host or ""):
            raise UserError("storage.url: write the @ in a password as %40")
        if url.get_backend_name() == "sqlite" and url.host:
            raise UserError(
                "storage.url: a file of SQLite comes after three slashes (sqlite:///studies.db), "
                "or four where its path is absolute"
            )
        if self.file and self.file.exists() and not self.file.is_file():
            raise UserError(
                f"{self.file} is a folder, a pipe or a device; the storage is a file of SQLite, "
                f"which the first sweep makes"
            )
        try:
            url.get_dialect()
        except NoSuchModuleError:
            raise UserError(
                f"storage.url: SQLAlchemy knows no database {url.drivername}; "
                f"it takes for example {examples}"
            ) from None
