"""`make dev`: `dagster dev` on a DAGSTER_HOME that is ready for it. `python -m bk_pipeline.defs.dev`."""

import logging
import os
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from bk_pipeline.defs.home import CONFIG, home_folder, local_instance, shortcomings
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.display import printable
from bk_pipeline.errors import PipelineError

# Dagster warns of a dagster.yaml in the working directory that DAGSTER_HOME overrides. Ours is
# there to be copied; `prepare` reports what a home lacks of it.
MISLEADING = "will not be used to configure Dagster"


def prepare() -> list[str]:
    """Prepare DAGSTER_HOME; return messages for the user.

    Tables are brought up to date only in `.dagster` of the working directory: another home may
    be in use by another version of Dagster.

    Raises:
        PipelineError: It cannot be made or opened, or its configuration cannot be read.
    """
    home = home_folder()
    os.environ["DAGSTER_HOME"] = str(home)
    with local_instance(migrate=home == Path(".dagster").absolute()) as instance:
        messages = end_lost_runs(instance)
    lacks = shortcomings(home)
    if lacks:
        messages.append(
            f"{home / CONFIG} stays as it is. It has {'; '.join(lacks)}. {CONFIG} here shows "
            "how to set that."
        )
    return messages


def main() -> None:
    """Prepare the home, then run `dagster dev` with this program's arguments."""
    try:
        for message in prepare():
            sys.stderr.write(printable(f"{message}\n"))
    except PipelineError as exc:
        sys.exit(printable(str(exc)))
    warnings.filterwarnings("ignore", "Function `dev_command`")
    logging.getLogger("dagster").addFilter(lambda record: MISLEADING not in record.getMessage())
    [dagster] = entry_points(group="console_scripts", name="dagster")
    sys.argv = ["dagster", "dev", *sys.argv[1:]]
    dagster.load()()


if __name__ == "__main__":
    main()
