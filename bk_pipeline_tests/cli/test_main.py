from __future__ import annotations

import pytest

from bk_pipeline.cli.commands import cli
from bk_pipeline_tests.cli.program import run


def test_help_lists_every_command_with_its_first_help_line(tmp_path):
    text = " ".join(run("--help", cwd=tmp_path).stdout.split())
    for name, command in cli.commands.items():
        assert command.help is not None
        assert f" {name} {command.help.splitlines()[0]}" in text


@pytest.mark.parametrize("verb", cli.commands)
def test_every_command_has_a_help_text(tmp_path, verb):
    done = run(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.split("Options:")[0].split()) > 15


def test_old_name_of_a_command_works_and_prints_the_new_name(tmp_path):
    done = run("set-aside", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "set-aside is now quarantined." in done.stderr
    assert "set-aside" not in run("--help", cwd=tmp_path).stdout


def test_unknown_command_is_a_usage_error(tmp_path):
    done = run("trace-everything", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Did you mean" not in run("xyzzy", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("backfil", "backfill"),
        ("doktor", "doctor"),
        ("ledger adpot", "adopt"),
        ("markers aply", "apply"),
    ],
)
def test_a_misspelt_command_is_a_usage_error_with_a_suggestion(call, arguments, meant):
    done = call(*arguments.split())
    assert done.returncode == 2
    assert f"No such command '{arguments.split()[-1]}'. Did you mean {meant}?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["{}"],
        ["--{}"],
        ["spans", "{}"],
        ["trace", "{}"],
        ["traceparent", "{}"],
        ["backfill", "--from", "{}", "--to", "2026-11-24"],
        ["backfill", "--{}"],
        ["doctor", "--days", "{}"],
        ["spans", "--format", "{}", "-"],
        ["sandbox", "--host", "{}"],
        ["ledger", "{}"],
    ],
    ids=" ".join,
)
def test_token_in_the_arguments_is_not_printed(call, arguments):
    token = "bkua_" + "0123456789abcdef" * 2
    done = call(*(one.format(token) for one in arguments))
    assert done.returncode != 0
    assert done.stderr
    assert token not in done.stdout + done.stderr


def test_misspelled_variable_is_reported_with_a_suggestion(tmp_path):
    done = run("ledger", cwd=tmp_path, BK_PIPELINE_PIPELINE="web")
    assert (
        "BK_PIPELINE_PIPELINE is not a known setting. Did you mean BK_PIPELINE_PIPELINES?"
        in done.stderr
    )


def test_characters_that_the_terminal_lacks_are_replaced(tmp_path):
    done = run("doctor", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "? token: BUILDKITE_API_TOKEN is not set." in done.stdout
    assert "Traceback" not in done.stderr
