"""What Dagster loads (`workspace.yaml` names this module)."""

from bk_pipeline.defs.code_location import code_location
from bk_pipeline.settings import Settings

defs = code_location(Settings.load())
