"""What is around the program: environment and `.env`, Dagster's home, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version as version_of
from pathlib import Path

from bk_pipeline import __version__
from bk_pipeline.doctor.findings import Answer, fine, remark
from bk_pipeline.doctor.installation import Installation
from bk_pipeline.env_file import ENV_FILE, env_file, env_path
from bk_pipeline.environment import ours
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import ALIASES

HOME, HOME_FILE = "DAGSTER_HOME", "dagster.yaml"


def settings(it: Installation) -> Answer:
    """Whether all values are well-formed, and no variable is in vain."""
    given = it.settings
    file = env_file()
    exported = sum(bool(os.environ.get(name)) for name in ALIASES)
    path = env_path()
    set_there = sum(bool(file.get(name)) for name in ALIASES)
    place = f"{set_there} in {path}" if path.exists() else f"there is no {path}"
    words = f"{exported} set in the environment, {place}."
    remarks = [*given.warnings, *_overruled(file)]
    if HOME in file:
        remarks.append(f"{HOME} in {ENV_FILE} has no effect: export it in the shell.")
    return remark(" ".join([words, *remarks])) if remarks else fine(words)


def _overruled(file: dict[str, str]) -> list[str]:
    return [
        f"{name} has another value in the environment than in {ENV_FILE}, and the environment "
        "goes before, except under dagster dev: take one of them out."
        for name in sorted(file)
        if ours(name) and os.environ.get(name, "").strip() not in {"", file[name].strip()}
    ]


def dagster_home(_: Installation) -> Answer:
    """Whether Dagster's records have a place that stays, with a configuration."""
    named = os.environ.get(HOME)
    if not named:
        here = Path(".dagster").absolute()
        return fine(f"is not set; `make dev` and `bk-pipeline backfill` use {here}.")
    home = Path(named).expanduser()
    if not home.is_absolute():
        raise ConfigError(
            f"DAGSTER_HOME is {named}, and Dagster wants an absolute path. Set it to "
            f"{home.absolute()}."
        )
    if not home.exists():
        return remark(f"{home} does not exist yet; `make dev` and `bk-pipeline backfill` make it.")
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise ConfigError(
            f"DAGSTER_HOME is {home}, and that is no folder that can be written. Set it to one."
        )
    if not (home / HOME_FILE).exists():
        return remark(
            f"{home} holds no {HOME_FILE}: copy ours there (`make dev` does so), or Dagster runs "
            "a whole backfill at once."
        )
    return fine(f"{home}, with a {HOME_FILE}.")


def version(_: Installation) -> Answer:
    """Which versions are at work; what to quote in a report."""
    return fine(
        f"bk_pipeline {__version__}, Dagster {version_of('dagster')}, "
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}."
    )
