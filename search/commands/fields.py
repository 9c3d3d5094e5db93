"""The settings that commands have, by the names under which they are typed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic.fields import FieldInfo

from lmcore.settings import PathText, Settings
from search.config import StudySettings
from search.names import AnyName, Name
from search.store.settings import Url

TEXTS = (PathText, Name, AnyName, Url)  # what is meant as it is typed


@dataclass(frozen=True)
class SettingField:
    """A setting such as `corpus.file`. `types` are those that its value may have."""

    name: str
    owner: type[Settings]
    types: tuple[Any, ...]

    @property
    def is_text(self) -> bool:
        return any(one in TEXTS for one in self.types)


def fields() -> Iterator[SettingField]:
    """Those of all commands."""
    kinds: list[type[Settings]] = [StudySettings]
    for kind in kinds:
        kinds += kind.__subclasses__()
        own = [name for name in kind.model_fields if name in kind.__annotations__]
        yield from _fields_of(kind, own)


def _fields_of(
    owner: type[Settings], names: Iterable[str], path: str = ""
) -> Iterator[SettingField]:
    for name in names:
        types = _types_of(owner.model_fields[name])
        yield SettingField(path + name, owner, types)
        for kind in types:
            if isinstance(kind, type) and issubclass(kind, Settings):
                for member in (kind, *getattr(kind, "members", {}).values()):
                    yield from _fields_of(member, member.model_fields, f"{path}{name}.")


def _types_of(field: FieldInfo) -> tuple[Any, ...]:
    """The type of a field and those that it is made of. pydantic keeps the metadata of an Annotated
    apart."""
    kind: Any = field.annotation
    whole = [Annotated[(kind, *field.metadata)]] if field.metadata else []
    return (kind, *whole, *get_args(kind))
