"""What the README and `docs/` say is there: commands, targets, settings, pages, the picture."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import suppress
from datetime import date
from pathlib import Path

import click
import msgspec
import pytest
from rich.console import Console

from bk_pipeline.cli.commands import cli
from bk_pipeline.cli.trace import LEGEND, waterfall
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.settings import Settings
from bk_pipeline.trace.waterfall import longest_on_path
from bk_pipeline_tests.builders import make_spans

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = [README, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
NAMED = [pytest.param(page, id=page.name) for page in PAGES]

PICTURED, PICTURE_DAY, PICTURE_WIDTH = ("infra", 52702), date(2026, 11, 21), 90
# `.venv/bin/` or not, in a block or between backticks; up to a comment or the end.
COMMAND = re.compile(
    r"(?:^ +|`)(?:\.venv/bin/)?bk-pipeline((?: [^`|\n]+?)?)(?: +# .*)?(?:`|\||$)", re.MULTILINE
)
TARGET = re.compile(r"(?:^ +|`)make ([a-z][a-z-]*)", re.MULTILINE)
# Of a destination with a name of one's own, of OTLP endpoints, of the tests, and of no more.
FAMILIES = ("BK_PIPELINE_TEMPO_", "BK_PIPELINE_OTLP_", "BK_PIPELINE_TEST_")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTING = re.compile(r"\b(?:BUILDKITE_API|BUILDKITE_ORG|HONEYCOMB|BK_PIPELINE)_[A-Z_]+\b")


def commands(page):
    return [shlex.split(found.strip()) for found in COMMAND.findall(page.read_text())]


def parse(command, arguments, context):
    """Parses as the shell's line would be, and runs nothing."""
    if isinstance(command, click.Group) and arguments:
        inner = command.get_command(context, arguments[0])
        assert inner is not None, f"no command {arguments[0]}"
        parse(inner, arguments[1:], context)
    elif arguments:
        # In prose an option may stand alone; `cli/test_readme.py` runs what is in blocks.
        with suppress(click.MissingParameter):
            command.make_context(command.name, arguments, parent=context)


@pytest.mark.parametrize("page", NAMED)
def test_every_command_and_option_exists(page):
    for arguments in commands(page):
        parse(cli, arguments, click.Context(cli, info_name="bk-pipeline"))


def test_commands_are_found_where_they_stand():
    found = commands(README)
    assert ["doctor", "--days", "30"] in found
    assert ["trace", "web#4182"] in found
    assert len(found) > 8


@pytest.mark.parametrize("page", NAMED)
def test_every_target_is_in_the_makefile(page):
    makefile = (PROJECT / "Makefile").read_text()
    for target in TARGET.findall(page.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


@pytest.mark.parametrize("page", NAMED)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and target.suffix == ".md":
            text = target.read_text()
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in titles}
            assert anchor in slugs, f"{page.name}: {link}"


@pytest.mark.parametrize("page", NAMED)
def test_every_setting_exists(page):
    known = {str(field.alias) for field in Settings.model_fields.values()}
    for name in set(SETTING.findall(page.read_text())):
        others = name.startswith(FAMILIES) or name.endswith("_")  # the beginning of names
        assert name in known or others, f"{page.name}: {name}"


def test_the_picture_is_what_the_program_draws():
    build = World(today=PICTURE_DAY).build(*PICTURED, at_ms=2**53)
    payload = build_as_of(build, build.phases[-1].at_ms + 1, retried_jobs=True)
    spans = make_spans(msgspec.json.encode(payload))
    out = io.StringIO()
    Console(file=out, width=PICTURE_WIDTH).print(waterfall(spans, width=PICTURE_WIDTH))
    below = [LEGEND, f"Critical path: {longest_on_path(spans)}"]
    drawn = "\n".join(f"    {line}".rstrip() for line in [*out.getvalue().splitlines(), *below])
    text = "\n".join(line for line in README.read_text().splitlines() if line)
    assert drawn in text, f"put this into README.md:\n{drawn}"
