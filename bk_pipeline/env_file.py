"""The file `.env` in the working directory, read so that what is wrong in it is an error."""

from __future__ import annotations

from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from bk_pipeline.errors import ConfigError

# Some editors put a byte order mark before the first name.
ENV_FILE, ENCODING = ".env", "utf-8-sig"


def env_file() -> dict[str, str]:
    """What `.env` in the working directory sets; nothing if there is none.

    Raises:
        ConfigError: It cannot be read. Names the line, never what is in it.
    """
    path = Path(ENV_FILE)
    if not path.is_file():
        return {}
    try:
        with path.open(encoding=ENCODING) as file:
            bindings = list(parse_stream(file))
    except UnicodeDecodeError:
        raise ConfigError(f"{path.absolute()} is no text in UTF-8. Save it as that.") from None
    except OSError as exc:
        raise ConfigError(f"{path.absolute()} cannot be read: {exc.strerror}.") from exc
    wrong = next((one.original.line for one in bindings if one.error), None)
    if wrong is not None:
        raise ConfigError(
            f"{path.absolute()}, line {wrong}, is no NAME=value. Put it so, with quotes around a "
            "value only where both are there, or # before a remark."
        )
    return {name: value for name, value in dotenv_values(path, encoding=ENCODING).items() if value}
