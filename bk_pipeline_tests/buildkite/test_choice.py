from __future__ import annotations

import pytest

from bk_pipeline.buildkite.listing import BranchFilter, PipelineFilter

TEN = tuple(f"p{n}" for n in range(10))


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        ((), ()),
        (("web",), ("web",)),
        (("web", "deploy", "web"), ("web", "deploy")),
        (("web", "de*"), ()),
        (("web", "!deploy"), ()),
        (TEN, TEN),
        ((*TEN, "one-more"), ()),
    ],
    ids=["none", "one", "twice", "wildcard", "exclusion", "ten", "eleven"],
)
def test_few_plain_names_are_listed_separately(globs, names):
    assert PipelineFilter(globs).names == names


@pytest.mark.parametrize(
    ("globs", "branches"),
    [
        ((), None),
        (("main", "release/*"), ("main", "release/*")),
        (("main", "!*-wip"), ("main",)),
        (("!*-wip",), None),
        (("main", "v[0-9]*"), None),
        (tuple(f"b{n}" for n in range(21)), None),
    ],
    ids=["none", "plain", "with exclusion", "only exclusion", "our own wildcards", "many"],
)
def test_branches_are_sent_if_buildkite_supports_their_globs(globs, branches):
    assert BranchFilter(globs).params.get("branch[]") == branches
