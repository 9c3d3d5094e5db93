"""Where trials live, and what of it nobody is to see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lmcore.errors import UserError
from lmcore.settings import Settings


def secrets(url: URL) -> list[str]:
    """The passwords that a URL holds: in their place, or among its query."""
    named = [str(url.query[name]) for name in _secret_names(url)]
    return [str(url.password), *named] if url.password else named


def _secret_names(url: URL) -> list[str]:
    """postgresql:///DATABASE?host=FOLDER&user=ada&password=...; drivers take sslpassword too."""
    return [name for name in url.query if "passw" in name.lower()]


class StorageSettings(Settings):
    """Where trials live: any SQLAlchemy URL.

    `lease`, in seconds, is how long a worker that says nothing keeps its trial, and how long one
    waits for a database that is away.
    """

    url: str
    lease: Annotated[float, Field(gt=0)] = 600.0

    @property
    def place(self) -> URL:
        """The URL, with a file's ~ resolved."""
        url = make_url(self.url)
        if url.database and url.get_backend_name() == "sqlite":
            return url.set(database=str(Path(url.database).expanduser()))
        return url

    @property
    def shown(self) -> str:
        """The URL without its password, for logs and messages."""
        url = self.place
        return url.difference_update_query(_secret_names(url)).render_as_string(hide_password=True)

    def check(self) -> None:
        """Raises UserError for what is no URL, without repeating it: it may hold a password."""
        try:
            host = make_url(self.url).host or ""
        except (ArgumentError, ValueError):
            raise UserError(
                "storage.url: this is no SQLAlchemy URL; it takes for example "
                "sqlite:////FOLDER/studies.db or postgresql://USER@HOST/DATABASE"
            ) from None
        if "@" in host:
            raise UserError("storage.url: write the @ in a password as %40")
