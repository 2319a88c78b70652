from __future__ import annotations

import ast
import io
import json
import logging
from pathlib import Path

import dagster as dg
import pytest
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

import bk_pipeline
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.defs.daily_asset import daily_asset, daily_run
from bk_pipeline.defs.metadata import cleaned
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import resources_of
from bk_pipeline.display import (
    Log,
    escape_json_line,
    escape_markdown,
    link,
    picture,
    printable,
    safe_url,
)
from bk_pipeline.errors import FatalError
from bk_pipeline.settings import Settings
from bk_pipeline.trace.labels import readable
from bk_pipeline_tests.worlds import stage

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u200b\x00\u2066y\ufeff\u2028z"
LEFT = "x]0;owned[2J31mgnpyz"
PACKAGE = Path(bk_pipeline.__file__).parent
# What a file may do that no other may: the functions that clean are here, or around it.
MAY = {
    "cli/output.py": {"click.echo"},
    "cli/spans.py": {"sys.stdout.buffer.write"},  # lines of `json_line`, Parquet
    "spans/secrets.py": {"a link made by hand"},  # a regular expression
    "defs/previews.py": {"dg.MetadataValue.md"},
    # Of deployments, whose cells are escaped; of a `Page`.
    "defs/metadata.py": {"dg.MetadataValue.md", "dg.MetadataValue.url"},
}
PRINTS = {"print", "pprint", "click.echo", "click.secho", "rich.print", "warnings.warn"}
TAKES_METADATA = ("AssetCheckResult", "AssetMaterialization", "Failure", "MaterializeResult")


def test_characters_that_a_terminal_interprets_are_removed():
    assert printable(HOSTILE) == LEFT
    assert (
        printable("two\nlines\tand a tab, \u00e9, \u732b")
        == "two\nlines\tand a tab, \u00e9, \u732b"
    )
    assert printable("\U0001f469\u200d\U0001f52c") == "\U0001f469\u200d\U0001f52c"
    assert printable("a\u200db") == "ab"
    assert all(one.isprintable() for one in readable(HOSTILE))


def test_escaped_json_has_the_same_value_and_is_printable():
    text = json.dumps({"branch": HOSTILE, "name": "\u00e9"}, ensure_ascii=False)
    assert json.loads(escape_json_line(text)) == json.loads(text)
    assert escape_json_line(text).isprintable()


def test_printed_text_is_escaped(capsys):
    echo(HOSTILE)
    echo(HOSTILE, err=True)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{LEFT}\n", f"{LEFT}\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_text_printed_by_rich_is_escaped(is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, color_system=None, width=60)
    table = Table("what")
    table.add_row(Text(HOSTILE))
    for one in (HOSTILE, Text(HOSTILE), table, Markdown(HOSTILE)):
        console.print(one)
    assert not [c for c in out.getvalue() if c in "\x1b\x9b\x07\x00\u202e\u200b\u2066\ufeff"]


@pytest.mark.parametrize("text", ["503: [/red] overloaded", "[bold]x[/bold]", "[link=file:///x]y"])
def test_markup_in_printed_text_is_shown_as_it_is(text):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=60)
    with console.status(text) as status:
        status.update(f"{text} :boom:")
    console.print(f"printed {text}")
    assert f"{text} :boom:" in out.getvalue()
    assert f"printed {text}" in out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "![x](http://evil.example/p.png)",
        "<img src=x onerror=alert(1)>",
        "`code` **bold** | cell | # head &lt; $math$",
        "line\n\n# head",
    ],
)
def test_escaped_markdown_renders_as_the_original_text(text):
    shown = escape_markdown(text)
    assert "\n" not in shown
    for at, one in enumerate(shown):
        assert one not in "`*_[]<>#|!&$" or shown[at - 1] == "\\"


def test_only_https_urls_of_known_hosts_are_safe():
    url = "https://buildkite.com/acme/web/builds/7"
    assert safe_url(url) == url
    assert safe_url("https://buildkite.com/a)b") == "https://buildkite.com/a%29b"
    for bad in (
        "javascript:alert(1)",
        "http://buildkite.com/a",
        "https://buildkite.com.evil.example/a",
        "https://buildkite.com@evil.example/",
        "https://me:hush@buildkite.com/a",
        "https://evil.example/buildkite.com",
        "https://evil.example\\@buildkite.com/",
        "https://buildkite.com/\x1b[2J",
        "https://[",
        "https://buildkite.com:port/",
        "https://api.buildkite.com/v2",
        "https://",
        " https://buildkite.com/a",
        "https://buildkite.com/a\n| b |",
        "https://buildkite.com/\t",
        "//buildkite.com/a",
        None,
        float("nan"),
    ):
        assert safe_url(bad) is None


def test_pages_are_those_of_the_configured_hosts():
    hosts = Settings.of(BUILDKITE_API_URL="https://bk.acme.dev:8443/api").buildkite_hosts
    assert safe_url("https://bk.acme.dev:8443/acme/web/builds/7", hosts)
    assert safe_url("https://buildkite.com/acme/web/builds/7", hosts)
    assert safe_url("http://bk.acme.dev:8443/acme/web/builds/7", hosts) is None
    assert safe_url("https://evil.bk.acme.dev/acme/web/builds/7", hosts) is None
    assert Settings.of(BUILDKITE_API_URL="https://api.acme.dev").buildkite_hosts == {
        "buildkite.com",
        "acme.dev",
    }
    assert Settings.of().buildkite_hosts == {"buildkite.com"}
    assert Settings.of().trace_hosts == {"ui.honeycomb.io"}


def test_links_and_pictures_are_markdown_of_their_own():
    assert link("a", safe_url("https://buildkite.com/a")) == "[a](https://buildkite.com/a)"
    assert link("a", safe_url("https://evil.example/a")) == "a"
    assert picture("a](javascript:x)", b"<svg/>").startswith("![a\\](javascript:x)](data:image/svg")


def test_log_lines_are_clean(caplog):
    log = Log(logging.getLogger("bk_pipeline.test"))
    with caplog.at_level(logging.INFO):
        line = f"100% {HOSTILE}"
        log.info(line)
        log.warning(HOSTILE)
    assert caplog.messages == [f"100% {LEFT}", LEFT]


def test_errors_are_clean():
    assert str(FatalError(HOSTILE)) == LEFT


def test_metadata_are_clean():
    assert cleaned({"a\x1b": HOSTILE, "b": [HOSTILE, 1], "c": {HOSTILE: (HOSTILE,)}, "d": 2.5}) == {
        "a": LEFT,
        "b": [LEFT, 1],
        "c": {LEFT: [LEFT]},
        "d": 2.5,
    }


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_what_an_asset_tells_dagster_is_clean(tmp_path):
    with stage(tmp_path) as scene, dg.DagsterInstance.ephemeral() as instance:
        naming = Naming()
        settings = scene.services.settings

        @daily_asset(settings, naming, "hostile", kinds={"parquet"})
        def hostile(context):
            with daily_run(context, naming, "hostile") as run:
                run.log.wait(HOSTILE)
                for step in run.days():
                    with step as day:
                        run.warn(f"{day.key} {HOSTILE}")
                        step.record({"text": HOSTILE, "texts": [HOSTILE]})
                raise FatalError(HOSTILE)

        done = dg.materialize(
            [hostile],
            partition_key=scene.days[0],
            instance=instance,
            resources=resources_of(scene.services, naming),
            raise_on_error=False,
        )
        told = [
            f"{one.user_message} {one.dagster_event.event_specific_data if one.dagster_event else ''}"
            for one in instance.all_logs(done.run_id)
        ]
    text = "\n".join(told)
    assert text.count(LEFT) >= 5
    assert not [c for c in HOSTILE if c not in LEFT and (c in text or ascii(c)[1:-1] in text)]


def offences(source: str, name: str = "some/file.py") -> list[str]:
    """What in `source` may bring text to a terminal, a log or Dagster that is not clean."""
    tree = ast.parse(source)
    cleaned_here = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) == "Log":
                cleaned_here.update(node.args)
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "addFilter":
                cleaned_here.add(node.func.value)
    found = [
        found
        for node in ast.walk(tree)
        if node not in cleaned_here
        for found in (*_calls(node), *_others(node, name))
    ]
    return [one for one in found if one not in MAY.get(name, ())]


def _calls(node: ast.AST):
    if not isinstance(node, ast.Call):
        return
    function = ast.unparse(node.func)
    last = function.rpartition(".")[2]
    metadata = [one.value for one in node.keywords if one.arg == "metadata"]
    if last in {"add_asset_metadata", "add_output_metadata"}:
        metadata = node.args[:1]
    if (
        function in PRINTS
        or (function.startswith(("logging.", "traceback.print")) and last != "addFilter")
        or "MetadataValue." in function
        or (last == "write" and "sys.std" in function and not _is_clean(node.args[0]))
        or (function == "sys.exit" and node.args and _is_text(node.args[0]))
    ):
        yield function
    if last in (*TAKES_METADATA, "add_asset_metadata", "add_output_metadata") and any(
        not (isinstance(one, ast.Call) and ast.unparse(one.func) == "cleaned") for one in metadata
    ):
        yield f"{last} of metadata"


def _is_text(node: ast.AST) -> bool:
    is_str = isinstance(node, ast.Call) and ast.unparse(node.func) == "str"
    return is_str or isinstance(node, ast.JoinedStr)


def _is_clean(node: ast.AST) -> bool:
    is_plain = isinstance(node, ast.Call) and ast.unparse(node.func) == "printable"
    return is_plain or isinstance(node, ast.Constant)


def _others(node: ast.AST, name: str):
    if isinstance(node, ast.Attribute) and node.attr == "log" and "context" in ast.unparse(node):
        yield ast.unparse(node)
    if isinstance(node, ast.ImportFrom) and node.module in {"logging", "rich", "rich.console"}:
        yield from (one.name for one in node.names if one.name not in {"console", "box", "Group"})
    text = isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and name.startswith("defs/")
    )
    if text and "](" in ast.unparse(node):
        yield "a link made by hand"


@pytest.mark.parametrize(
    "line",
    [
        "print(x)",
        "click.echo(x)",
        "from rich.console import Console",
        "context.log.info(x)",
        "f(on_wait=self._context.log.info)",
        "logging.warning(x)",
        "logging.getLogger(__name__).error(x)",
        "log = logging.getLogger(__name__)",
        "sys.stderr.write(x)",
        "sys.exit(str(exc))",
        "dg.MetadataValue.md(x)",
        "dg.MetadataValue.url(x)",
        "dg.MetadataValue.text(x)",
        "dg.AssetCheckResult(metadata={'a': x})",
        "context.add_asset_metadata(x)",
        "f'[trace]({url})'",
    ],
)
def test_the_lint_sees_what_goes_around_the_functions_that_clean(line):
    assert offences(line)


# What cleans, and what `make` runs on our own declarations.
WRITERS = {"display.py", "docsgen.py"}


def test_nothing_goes_around_the_functions_that_clean():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        # The sandbox is a stand-in of others' services; the rest shows no text of others.
        if not name.startswith("sandbox/") and name not in WRITERS:
            assert not offences(path.read_text(), name), name
