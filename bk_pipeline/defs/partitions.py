"""A partition is one day of builds, by their creation; today is one too."""

import dagster as dg

from bk_pipeline.pipeline import Day
from bk_pipeline.settings import Settings
from bk_pipeline.window import day_window


def daily(settings: Settings) -> dg.DailyPartitionsDefinition:
    """From the first day that the settings name to today, which is still being filled."""
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(),
        timezone=settings.timezone.key,
        end_offset=1,
    )


def day_of(key: str, settings: Settings) -> Day:
    return Day(key, day_window(key, settings.timezone))
