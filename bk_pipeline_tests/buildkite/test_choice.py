from __future__ import annotations

import pytest

from bk_pipeline.buildkite.choice import PipelineChoice

TEN = tuple(f"p{n}" for n in range(10))


@pytest.mark.parametrize(
    ("globs", "slug", "wanted"),
    [
        ((), "web", True),
        (("web",), "web", True),
        (("web",), "web-api", False),
        (("web-*",), "web-api", True),
        (("web-*",), "Web-api", False),
        (("web-*", "deploy"), "deploy", True),
        (("!legacy-*",), "web", True),
        (("!legacy-*",), "legacy-web", False),
        (("*", "!legacy-*"), "legacy-web", False),
        (("!legacy-*", "*"), "legacy-web", False),
        (("web-?",), "web-10", False),
    ],
)
def test_choice_by_glob(globs, slug, wanted):
    assert (slug in PipelineChoice(globs)) is wanted


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
