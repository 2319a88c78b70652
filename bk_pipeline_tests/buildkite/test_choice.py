from __future__ import annotations

import pytest

from bk_pipeline.buildkite.listing import BranchChoice, PipelineChoice

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
def test_pipelines_are_asked_one_by_one_if_few_and_plain(globs, names):
    assert PipelineChoice(globs).names == names


@pytest.mark.parametrize(
    ("globs", "told"),
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
def test_buildkite_is_told_the_branches_that_it_can_tell_apart(globs, told):
    assert BranchChoice(globs).params.get("branch[]") == told
