"""The file `.env` in the working directory, read so that what is wrong in it is an error.

`dagster dev` reads the same file by itself, with python-dotenv. So a line means here what it
means there, or it is refused: an escape or an expansion never changes a value unnoticed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from dotenv.main import resolve_variables
from dotenv.parser import Binding, parse_stream

from bk_pipeline.errors import ConfigError

# Some editors put a byte order mark before the first name.
ENV_FILE, ENCODING = ".env", "utf-8-sig"

# What python-dotenv makes of a backslash between double quotes: \b is a backspace, and no
# longer the word boundary of a regular expression.
_CONTROL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[abfnrtv]")
_EXPANSION = re.compile(r"\$\{([^}:]*)(:-)?[^}]*\}")
_QUOTED = re.compile(r"""[^=]*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')""", re.DOTALL)


def env_path() -> Path:
    """Where `.env` is searched for: in the working directory, nowhere else."""
    return Path(ENV_FILE).absolute()


def env_file(ours: Callable[[str], bool] = lambda _: False) -> dict[str, str]:
    """What `.env` in the working directory sets, empty values included; `{}` if there is none.

    Args:
        ours: Whether a variable's line is to be clear. Those of other programs may hold anything.

    Raises:
        ConfigError: It cannot be read, or a line would change its value unnoticed. Names
            the line, never what is in it.
    """
    bindings = _bindings()
    for one in bindings:
        wrong = _unclear(one, bindings) if one.key and one.value and ours(one.key) else ""
        if wrong:
            raise ConfigError(f"{env_path()}, line {_line(one)}: {one.key} {wrong}")
    pairs = [(one.key, one.value) for one in bindings if one.key is not None]
    # As `dagster dev` does: the file's own variables are expanded before the process's.
    return {name: value or "" for name, value in resolve_variables(pairs, override=True).items()}


def _bindings() -> list[Binding]:
    path = env_path()
    if not path.is_file():
        return []
    try:
        with path.open(encoding=ENCODING) as file:
            bindings = list(parse_stream(file))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8. Save it as that.") from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.") from exc
    wrong = next((one for one in bindings if one.error), None)
    if wrong is not None:
        raise ConfigError(
            f"{path}, line {_line(wrong)}, is no NAME=value. Put it so, with quotes around a "
            "value only where both are there, or # before a remark."
        )
    return bindings


def _line(binding: Binding) -> int:
    """The line of the binding itself; python-dotenv counts from the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _unclear(binding: Binding, bindings: Iterable[Binding]) -> str:
    """What python-dotenv would change in the value and hardly anybody expects; "" if nothing."""
    found = _QUOTED.match(binding.original.string)
    double, single = found.groups() if found else (None, None)
    if double is not None and _CONTROL_ESCAPE.search(double):
        return (
            r"has an escape between double quotes, where \b is a backspace and \n a line break. "
            "Put single quotes around the value, or none: a backslash then stays as it is."
        )
    if single is not None and "\\\\" in single:
        return (
            r"has \\ between single quotes, which would become one \. Put no quotes around the "
            "value, or double ones."
        )
    names = {one.key for one in bindings} | set(os.environ)
    for name, default in _EXPANSION.findall(binding.value or ""):
        if single is not None or (name not in names and not default):
            return (
                "holds ${…}, which is replaced by the variable of that name, between any quotes, "
                "and "
                + ("single quotes promise otherwise. " if name in names else "none is set. ")
                + "Put double quotes around the value if that is meant. Else export the variable "
                "from the shell instead, or write %24 for $ in a URL or a header."
            )
    return ""
