"""`make dev`: `dagster dev` on a DAGSTER_HOME that is ready for it. `python -m bk_pipeline.defs.dev`."""

import logging
import os
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from bk_pipeline.defs.home import CONFIG, home_folder, local_instance, shortcomings
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.errors import PipelineError

# Dagster warns of a dagster.yaml in the working directory that DAGSTER_HOME overrules. Ours is
# there to be copied, and what a home lacks of it is said below.
UNTRUE = "will not be used to configure Dagster"


def prepare() -> list[str]:
    """Make DAGSTER_HOME ready; what the user should know, a sentence each.

    Tables are brought up to date only in `.dagster` of the working directory: another home may
    be in use by another version of Dagster.

    Raises:
        PipelineError: It cannot be made or opened, or its configuration cannot be read.
    """
    home = home_folder()
    os.environ["DAGSTER_HOME"] = str(home)
    with local_instance(migrate=home == Path(".dagster").absolute()) as instance:
        told = end_lost_runs(instance)
    lacks = shortcomings(home)
    if lacks:
        told.append(
            f"{home / CONFIG} stays as it is. It has {'; '.join(lacks)}. {CONFIG} here shows "
            "how to set that."
        )
    return told


def main() -> None:
    """Prepare the home, then become `dagster dev` with this program's arguments."""
    try:
        for line in prepare():
            sys.stderr.write(f"{line}\n")
    except PipelineError as exc:
        sys.exit(str(exc))
    warnings.filterwarnings("ignore", "Function `dev_command`")
    logging.getLogger("dagster").addFilter(lambda record: UNTRUE not in record.getMessage())
    [dagster] = entry_points(group="console_scripts", name="dagster")
    sys.argv = ["dagster", "dev", *sys.argv[1:]]
    dagster.load()()


if __name__ == "__main__":
    main()
