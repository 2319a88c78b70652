from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

import bk_pipeline
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.display import escape_json_line, escape_markdown, printable, safe_url
from bk_pipeline.trace.waterfall import readable

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u200b\x00\u2066y\ufeff\u2028z"
LEFT = "x]0;owned[2J31mgnpyz"
PACKAGE = Path(bk_pipeline.__file__).parent
# All that may print, or hand Markdown to Dagster.
PRINTERS = {"cli/output.py"}
MARKDOWN_WRITERS = {"defs/previews.py"}


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
        "https://evil.example/buildkite.com",
        "https://evil.example\\@buildkite.com/",
        "https://buildkite.com/\x1b[2J",
        "https://[",
        None,
        float("nan"),
    ):
        assert safe_url(bad) is None


def calls(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            found += [f"rich.console.{one.name}" for one in node.names]
    return found


def test_output_is_only_written_through_the_escaping_functions():
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if name.startswith("sandbox/") or name == "docsgen.py":
            continue
        found = calls(path)
        if name not in PRINTERS:
            assert not {"print", "click.echo", "click.secho", "rich.console.Console"} & {*found}, (
                name
            )
        if name not in MARKDOWN_WRITERS:
            assert not [one for one in found if one.endswith("MetadataValue.md")], name
