"""Tests of the fields of OpenTelemetry's semantic conventions."""

from __future__ import annotations

import pytest

from bk_pipeline.spans import derived
from bk_pipeline.spans.records import Job, Pipeline, Provider


@pytest.mark.parametrize(
    ("address", "url", "owner", "name"),
    [
        ("git@github.com:acme/web.git", "https://github.com/acme/web", "acme", "web"),
        ("git@github.com:acme/web", "https://github.com/acme/web", "acme", "web"),
        ("org-1@github.com:/acme/web.git", "https://github.com/acme/web", "acme", "web"),
        ("ssh://git@git.acme.io:2222/a/b/web.git", "https://git.acme.io/a/b/web", "a/b", "web"),
        ("git://github.com/acme/web.git/", "https://github.com/acme/web", "acme", "web"),
        ("https://github.com/acme/web", "https://github.com/acme/web", "acme", "web"),
        ("https://me:s3cret@x.io:8443/a/web.git", "https://x.io:8443/a/web", "a", "web"),
        ("https://x.io/web.git", "https://x.io/web", None, "web"),
        ("/srv/git/web.git", None, None, None),
        ("file:///srv/git/web.git", None, None, None),
        ("C:\\web", None, None, None),
        ("git@github.com:", None, None, None),
        ("", None, None, None),
        (None, None, None, None),
    ],
)
def test_repository_url_owner_and_name_are_parsed_from_the_address(address, url, owner, name):
    pipeline = Pipeline(repository=address)
    assert derived.repository_url(pipeline) == url
    assert derived.repository_owner(pipeline) == owner
    assert derived.repository_name(pipeline) == name


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        (Provider("github"), "github"),
        (Provider("github_enterprise"), "github"),
        (Provider("gitlab_ee"), "gitlab"),
        (Provider("bitbucket"), "bitbucket"),
        (Provider("unknown"), None),
        (Provider(), None),
        (None, None),
    ],
)
def test_provider_has_the_name_of_the_conventions(provider, name):
    assert derived.provider(Pipeline(provider=provider)) == name


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"state": "passed"}, "success"),
        ({"state": "failed"}, "failure"),
        ({"state": "failed", "exit_status": -1}, "error"),
        ({"state": "failed", "signal_reason": "agent_stop"}, "error"),
        ({"state": "timed_out"}, "timeout"),
        ({"state": "expired"}, "timeout"),
        ({"state": "canceled", "exit_status": -1}, "cancellation"),
        ({"state": "finished", "exit_status": 0}, "success"),
        ({"state": "finished", "exit_status": 4}, "failure"),
        ({"state": "brand new"}, None),
    ],
)
def test_task_result_follows_the_conventions(fields, result):
    assert derived.task_result(Job("a", **fields)) == result
