"""A verb's command line: a parser from its schema, short and long help, and what was typed by mistake."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from timm_jackpot.errors import ConfigError
from timm_jackpot.schema import Settings, aliases_of, choices_of, flag_of, group_of, is_positional, kind_of

JSON, TRACEBACK = "--json", "--traceback"
# Settings that only one verb has come first, under "Options".
_GROUPS = ("Options", "Model", "Data", "Search", "Training", "Output", "Advanced", "General")
_WIDTH = 100
_OF_RUN_VERB = ("json", "traceback")  # read from sys.argv, as parsing itself may fail
_FLAG = "flag "  # before the name of a positional argument that was given by a flag


def parser_of(schema: type[Settings], common: type[Settings] | None = None, *, everything: bool) -> _Parser:
    """The parser of a verb.

    Args:
        schema: the settings; of a search, those of its method.
        common: the verb's usual settings: the short help shows what `schema` adds to them.
        everything: whether the help shows all flags.
    """
    command, fields = schema.command, schema.model_fields
    assert command is not None, schema
    names = [name for name in command.basic if name in fields]
    names += [name for name in fields if name not in names]
    added = fields.keys() - (common or schema).model_fields.keys()
    shown = {*added, *command.basic} if command.basic and not everything else fields.keys()
    parser = _Parser(
        prog=f"timm-jackpot {command.verb}",
        usage=" ".join(["%(prog)s", *filter(None, (_usage(name, fields[name]) for name in names)), "[FLAG …]"]),
        description="\n\n".join(_fill(part) for part in (schema.__doc__ or "").split("\n\n")),
        epilog=_epilog(command.verb, command.examples, hidden=len(fields.keys() - shown)),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_Help,
    )
    titles = ["Arguments", *sorted(dict.fromkeys(group_of(schema, name) for name in names), key=_place), "General"]
    groups = {title: parser.add_argument_group(title) for title in titles}
    for name in names:
        text = _help_of(fields[name]) if name in shown else argparse.SUPPRESS
        if is_positional(fields[name]):
            _add_positional(groups["Arguments"], name, fields[name], text)
        else:
            _add_flag(groups[group_of(schema, name)], name, fields[name], text)
    general = groups["General"]
    if command.recipes:
        text = "A recipe that comes with the package, or a YAML file; flags override it."
        general.add_argument("--recipe", metavar="NAME|FILE", help=text)
    general.add_argument("-h", "--help", action="help", help="Show the most used flags.")
    general.add_argument("--help-all", action="help", help="Show all flags.")
    general.add_argument(JSON, action="store_true", help="Print one line of JSON, and no table.")
    text = "Print a traceback when the run fails." if everything else argparse.SUPPRESS
    general.add_argument(TRACEBACK, action="store_true", help=text)
    return parser


def split(parser: _Parser, words: list[str]) -> dict[str, Any]:
    """The settings that a command line gives, as text.

    Raises:
        ConfigError: for an unknown flag, a word that has no place, or a value that is missing.
    """
    found, left = parser.parse_known_intermixed_args(words)
    unknown = next((word.partition("=")[0] for word in left if word.startswith("-")), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, parser.known_flags(), n=1, cutoff=0.7)
        raise ConfigError(
            f"unknown flag {unknown[:100]}: " + (f"did you mean {near[0]}?" if near else "--help-all lists all flags")
        )
    if left:
        raise ConfigError(f"unexpected argument {left[0][:100]!r}: --help shows what the command takes")
    flags = {name: value for name, value in vars(found).items() if name not in _OF_RUN_VERB}
    for flag in [key for key in flags if key.startswith(_FLAG)]:
        name, value = flag.removeprefix(_FLAG), flags.pop(flag)
        if flags.setdefault(name, value) != value:
            raise ConfigError(f"{name} {flags[name][:100]} and --{name} {value[:100]} differ: give one of them")
    return flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help lists the flags)")

    def known_flags(self) -> list[str]:
        return list(self._option_string_actions)


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide everywhere, and a flag's value named once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=_WIDTH)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return str(action.metavar or action.dest.upper())
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0].removeprefix('--')}"
        value = "" if action.nargs == 0 else f" {action.metavar}" + (" …" if action.nargs == "*" else "")
        return ", ".join(action.option_strings) + value


def _usage(name: str, field: FieldInfo) -> str | None:
    if not is_positional(field):
        return None
    if get_origin(field.annotation) is tuple:
        return f"[{name.upper()} …]"
    return name.upper() if field.is_required() else f"[{name.upper()}]"


def _add_positional(group: argparse._ArgumentGroup, name: str, field: FieldInfo, text: str) -> None:
    if get_origin(field.annotation) is tuple:
        group.add_argument(name, nargs="*", help=text)
        return
    group.add_argument(name, nargs="?", help=text)
    group.add_argument(f"--{name}", dest=f"{_FLAG}{name}", help=argparse.SUPPRESS)  # what scripts of old give


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo, text: str) -> None:
    names = [*(flag for flag in aliases_of(field) if not flag.startswith("--")), flag_of(name, field)]
    kind = kind_of(field.annotation)
    if kind is bool:
        group.add_argument(*names, dest=name, action=argparse.BooleanOptionalAction, help=text)
        return
    # A list may be given at once or flag by flag: argparse's default would keep only the last of those.
    how: dict[str, Any] = {"action": "extend", "nargs": "*"} if get_origin(kind) is tuple else {}
    group.add_argument(*names, dest=name, metavar=_metavar(name, kind), help=text, **how)


def _metavar(name: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    last = name.rpartition("_")[2]
    return {int: "N", float: "X"}.get(kind) or {"checkpoint": "FILE", "output": "FOLDER"}.get(last, last.upper())


def _help_of(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if choices := choices_of(field):
        text += f" One of: {', '.join(choices)}."
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    if not field.is_required() and default is not None and default is not False and default != "":
        text += f" [default: {'on' if default is True else default}]"
    return text.replace("%", "%%")


def _epilog(verb: str, examples: tuple[str, ...], *, hidden: int) -> str:
    lines = ["Examples:", *(f"  timm-jackpot {verb} {example}".rstrip() for example in examples)]
    if hidden:
        lines += ["", f"--help-all shows {hidden} more flags."]
    return "\n".join(lines)


def _fill(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _WIDTH - 2).replace("%", "%%")


def _place(title: str) -> int:
    return _GROUPS.index(title) if title in _GROUPS else 0
