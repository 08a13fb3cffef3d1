"""Strict base classes for settings and for files' contents; validation errors as one sentence."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from timm_jackpot.errors import ConfigError

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Command:
    """What the help of a verb shows besides its settings."""

    verb: str
    examples: tuple[str, ...]
    """Command lines without the program's name."""
    basic: tuple[str, ...] = ()
    """Settings in the short help; empty: all."""
    recipes: bool = False
    """Whether --recipe gives settings."""


class Settings(BaseModel):
    """Settings from flags, recipes and Python: immutable, unknown names refused; field docstrings are the flags' help.

    Raises:
        ConfigError: for an unknown setting or a value outside its bounds.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )
    group: ClassVar[str] = "Options"
    """The heading under which help lists the settings that a class adds."""
    command: ClassVar[Command | None] = None
    """The verb that takes these settings."""

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, /, **values: Any) -> None:  # a recipe may have a key "self"
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(_sentence_of(error, type(self))) from error


class Document(BaseModel):
    """Part of a file that we do not trust: unknown keys are refused, types are exact."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class OneOf:
    """Annotates a setting whose choices come from a registry: checked when it is set, listed in the help.

    `listed`, if given, are the choices that the help lists.
    """

    choices: Callable[[], Iterable[str]]
    listed: Callable[[], Iterable[str]] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        known = list(self.choices())
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"
            raise ValueError(f"unknown name: {hint}")
        return value


def choices_of(field: FieldInfo) -> list[str]:
    """The choices for a field or its elements; empty if any value is allowed."""
    marks = [*field.metadata, *(mark for part in get_args(field.annotation) for mark in get_args(part)[1:])]
    return [choice for mark in marks if isinstance(mark, OneOf) for choice in (mark.listed or mark.choices)()]


def flag_of(name: str, field: FieldInfo) -> str:
    """A setting's long flag: --its-name, unless the schema gives another; ITS_NAME where its place gives it."""
    if is_positional(field):
        return name.upper()
    return next((flag for flag in aliases_of(field) if flag.startswith("--")), f"--{name.replace('_', '-')}")


def aliases_of(field: FieldInfo) -> list[str]:
    return [str(flag) for flag in _extra_of(field).get("flags", [])]


def is_positional(field: FieldInfo) -> bool:
    """Whether the command line gives the setting by its place, not by a flag."""
    return bool(_extra_of(field).get("positional"))


def _extra_of(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def group_of(schema: type[Settings], name: str) -> str:
    """The heading of a setting: that of the first class that has it."""
    has = (cls for cls in reversed(schema.__mro__) if issubclass(cls, Settings) and name in cls.model_fields)
    return next(has).group


def kind_of(annotation: Any) -> Any:
    """A field's type, ignoring None."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def fault_of(error: ValidationError) -> str:
    """Where a document is invalid and why; safe to print even if the document is hostile."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = repr(".".join(map(str, first["loc"])))[1:-1][:100]
    return f"at {where or 'top level'}: {first['msg']}"


def _sentence_of(error: ValidationError, schema: type[BaseModel]) -> str:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # the reason names the settings that are involved
        return reason
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, schema.model_fields, n=1)
        return f"unknown setting {name[:100]}" + (f": did you mean {near[0]}?" if near else "")
    flag = flag_of(name, schema.model_fields[name]) if name in schema.model_fields else name
    if first["type"] == "missing":
        return f"{flag} is required"
    return f"{flag} {str(first['input'])[:100]}: {reason[:1].lower()}{reason[1:]}"
