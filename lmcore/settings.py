"""Settings are plain, frozen data: the same class reads YAML, JSON and a bundle's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from lmcore.errors import UserError
from lmcore.files import home_opened

S = TypeVar("S", bound="Settings")
NO_SETTING = "there is no such setting"
_LONGEST = 150  # letters of a value in a message
PathText = Annotated[str, AfterValidator(home_opened)]  # of a file or folder; its ~ is the home


class Settings(BaseModel):
    """Base of every settings class: frozen, unknown names refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """The settings as JSON-ready data, from which `parse` makes them again."""
        return self.model_dump(mode="json")


def later(default: Any) -> Any:
    """The default of a setting that came later than files and databases with its class.

    The setting is left out of plain data at its default: so the keys of earlier recipes, models
    and corpora stay.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class Family(Settings):
    """Settings of which there are several kinds, told apart by `kind`.

    A direct subclass is a family. Its subclasses with a default `kind` are the members; a member is
    known by existing. Plain data may be the kind alone where every other setting has a default.
    A `kind` is stored in recipes and files: never rename one.
    """

    kind: str
    members: ClassVar[dict[str, type[Family]]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if Family in cls.__bases__:
            cls.members = {}
        elif isinstance(kind := cls.model_fields["kind"].default, str):
            taken = cls.members.setdefault(kind, cls)
            if taken is not cls:
                raise TypeError(f"{cls.__name__} and {taken.__name__} both have the kind {kind!r}")

    @classmethod
    def pick(cls, data: Any) -> Family:
        """The member that plain data asks for; for a pydantic BeforeValidator."""
        if isinstance(data, cls):
            return data
        given = {"kind": data} if isinstance(data, str) else data
        kind = given.get("kind") if isinstance(given, Mapping) else None
        if not isinstance(kind, str) or kind not in cls.members:
            raise ValueError(f"its kind is one of {', '.join(sorted(cls.members))}")
        try:
            return cls.members[kind].model_validate(given)
        except ValidationError as error:
            inside = "\n".join(explain(error, ""))
            raise PydanticCustomError("inside", "{inside}", {"inside": inside}) from None


def parse(kind: type[S], data: Mapping[str, Any], where: str = "") -> S:
    """Settings of class `kind` from plain data.

    `where` is the name under which the person knows the data ("recipe"), "" for the top.
    Raises UserError that names every wrong setting, what it got and what it takes.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, where))) from None


def explain(error: ValidationError, where: str) -> list[str]:
    """One line a wrong setting: its name below `where`, what it got, what it takes."""
    return [line for detail in error.errors() for line in _explain(detail, where)]


def _plain(name: str) -> str:
    """A name as it stands; one with signs that a screen would act on is quoted."""
    return name if name.isprintable() else repr(name)


def _explain(detail: Any, where: str) -> list[str]:
    name = ".".join(_plain(str(part)) for part in (where, *detail["loc"]) if part != "")
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "inside":
            return [f"{name}.{line}" for line in message.splitlines()]
        case "extra_forbidden":
            return [f"{name}: {NO_SETTING}"]
        case "missing":
            return [f"{name}: this setting is missing"]
        case "value_error" if not detail["loc"]:
            return [f"{name}: {message}" if name else message]
        case _:
            got = repr(detail["input"])
            got = got if len(got) <= _LONGEST else f"{got[:_LONGEST]}..."
            return [f"{name}: got {got}; {message[:1].lower()}{message[1:]}"]
