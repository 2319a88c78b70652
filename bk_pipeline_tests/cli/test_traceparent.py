from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline_tests.cli.program import PROGRAM
from bk_pipeline_tests.cli.test_spans import BUILD

BUILD_ID = "018f0000-1111-7222-8333-444455556666"
JOB_ID = "018f0000-1111-7222-8333-0000000000a1"
EXPECTED = "00-018f0000111172228333444455556666-83330000000000a1-01"
IN_A_JOB = {"BUILDKITE_BUILD_ID": BUILD_ID, "BUILDKITE_JOB_ID": JOB_ID}
TRACEPARENT = [PROGRAM, "traceparent"]


def run(command: list[Any], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_traceparent_is_computed_from_the_job_environment():
    assert run(TRACEPARENT, **IN_A_JOB).stdout == f"{EXPECTED}\n"


def test_shell_commands_in_the_help_give_the_same_result():
    text = run([*TRACEPARENT, "--help"]).stdout
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s+(job=|export )", line)]
    assert len(lines) == 2
    script = "\n".join([*lines, 'echo "$TRACEPARENT"'])
    assert run(["bash", "-c", script], **IN_A_JOB).stdout == f"{EXPECTED}\n"


def test_traceparent_is_the_job_span_of_the_build():
    job = spans_for_build(decode_build(json.dumps(BUILD).encode())).spans[-1]
    assert run(TRACEPARENT, **IN_A_JOB).stdout.split("-")[2] == job.span_id


def test_missing_variable_is_named_outside_a_job():
    done = run(TRACEPARENT, BUILDKITE_BUILD_ID=BUILD_ID)
    assert done.returncode == 2
    assert done.stderr.startswith("bk-pipeline: BUILDKITE_JOB_ID is not set.")
