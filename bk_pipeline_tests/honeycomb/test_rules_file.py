"""Reading the rules file: defaults, and errors with their lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bk_pipeline.errors import ConfigError
from bk_pipeline.honeycomb.rules import load_rules
from bk_pipeline.spans.model import SpanKind

DOCS = Path(__file__).parents[2] / "docs" / "markers.md"
GOOD = """\
[[rule]]
id = "one"
type = "deploy"
message = "#{buildkite.build.number}"
"""


@pytest.fixture
def load(tmp_path):
    def load(text, dataset="CI builds"):
        path = tmp_path / "markers.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_rules(path, dataset=dataset)

    return load


def test_rule_has_defaults(load):
    [rule] = load(GOOD).rules

    assert (rule.kind, rule.at, rule.dataset) == (SpanKind.BUILD, "start", "ci-builds")
    assert [page.text for page in rule.pages] == ["{buildkite.build.web_url}"]
    assert rule.globs() == {}


def test_globs_may_be_one_or_several_and_datasets_become_slugs(load):
    text = GOOD + 'dataset = "My Data"\npipeline = "web"\nbranch = ["main", "!x"]\non = "job"\n'

    [rule] = load(text).rules

    assert rule.dataset == "my-data"
    assert rule.globs() == {"pipeline": ("web",), "branch": ("main", "!x")}
    assert rule.pages[0].text == "{buildkite.job.web_url}"
    [rule] = load(GOOD + 'dataset = "__all__"\n').rules
    assert rule.dataset == "__all__"


def test_empty_file_has_no_rules(load):
    assert load("# nothing yet\n").rules == ()


def test_crlf_and_byte_order_mark_are_accepted(load):
    assert len(load(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()).rules) == 1


def test_digest_changes_with_the_rules_only(load):
    digest = load(GOOD).digest

    assert load("# a comment\n" + GOOD + '[colors]\ndeploy = "#000000"\n').digest == digest
    assert load(GOOD + 'branch = "main"\n').digest != digest
    assert load(GOOD, dataset="other").digest != digest


def test_colors_are_those_of_a_datasets_types(load):
    rules = load(GOOD + '[colors]\ndeploy = "#7B1FA2"\nother = "#000000"\n')

    assert rules.colors_in("ci-builds") == {"deploy": "#7b1fa2"}
    assert rules.colors_in("elsewhere") == {}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('brnch = "main"', 'line 5: rule "one", brnch: is unknown; did you mean branch?'),
        ('at = "begin"', "line 5: rule \"one\", at: should be 'start', 'finish'"),
        ("min_wait_s = 'x'", 'line 5: rule "one", min_wait_s: should be a valid number.'),
        ("min_wait_s = 0", 'line 5: rule "one", min_wait_s: should be greater than 0.'),
        ("branch = 3", 'line 5: rule "one", branch: '),
        ("branch = []", 'line 5: rule "one", branch: '),
        ('branch = [\n"main",\n3]', 'line 5: rule "one", branch: '),
        ('dataset = "a/b"', 'line 5: rule "one", dataset: expected a dataset\'s name'),
        ('url = ""', 'line 5: rule "one", url: expected a non-empty text.'),
        ('url = "{"', 'line 5: rule "one", url: the brace at character 1 is unbalanced'),
        ('url = "http://d/"', 'line 5: rule "one", url: expected https://, a host'),
        ('url = "https://d{buildkite.build.branch}"', 'line 5: rule "one", url: expected https://'),
        ('url = "https://{buildkite.build.branch}"', 'line 5: rule "one", url: expected https://'),
        ('url = "{nothing}"', 'line 5: rule "one", url: there is no field {nothing}'),
        ('step_key = "x"', 'line 5: rule "one", step_key: is a condition on jobs; set on = "job"'),
        ("regression = 'x'", 'line 5: rule "one", regression: should be a valid boolean.'),
        (
            'on = "job"\nregression = true',
            'line 6: rule "one", regression: is a condition on builds; set on = "build".',
        ),
        (
            'url = "https://d/{regression.step}"',
            'line 5: rule "one", url: {regression.step} exists',
        ),
        (
            'regression = true\nurl = "https://d/{regression.percents}"',
            "there is no field {regression.percents}; did you mean {regression.percent}?",
        ),
        ('[colors]\na = "red"', "line 6: colors.a: expected a colour like #7b1fa2."),
        ("[[rules]]", "line 5: rules: is unknown; did you mean rule?"),
        ("[[rule]]\ntype = 'a'\nmessage = 'b'", "line 5: rule 2, id: is missing."),
        (
            "[[rule]]\nid = 'a b'\ntype = 'a'\nmessage = 'b'",
            'line 6: rule "a b", id: expected 1 to',
        ),
        (GOOD, 'line 6: rule "one", id: rule 1 has the same id "one".'),
        (
            "[[rule]]\nid = 'j'\ntype = 'a'\nmessage = '{buildkite.job.id}'",
            'line 8: rule "j", message: {buildkite.job.id} exists on job spans',
        ),
    ],
    ids=lambda value: value.splitlines()[0][:30] if "line" not in value else "",
)
def test_error_names_file_line_rule_and_field(load, tmp_path, more, message):
    with pytest.raises(ConfigError) as caught:
        load(GOOD + more + "\n")

    assert f"{tmp_path / 'markers.toml'} line " in str(caught.value)
    assert message in str(caught.value)


def test_all_errors_are_reported_in_file_order(load):
    with pytest.raises(ConfigError) as caught:
        load("[[rule]]\nid = 3\nbrnch = 'x'\n\n[[rule]]\nat = 'x'\n")

    lines = str(caught.value).splitlines()
    assert [int(re.search(r"line (\d+)", line)[1]) for line in lines] == [1, 1, 2, 3, 5, 5, 5, 6]


def test_invalid_toml_is_reported_with_its_line(load):
    with pytest.raises(ConfigError, match=r"markers\.toml is not valid TOML: .*line 2"):
        load("[[rule]]\nid = \n")
    with pytest.raises(ConfigError, match="not UTF-8 from byte 2"):
        load(b"# \xff")
    with pytest.raises(ConfigError, match="more than 100,000 bytes"):
        load("#" * 100_001)


def test_missing_file_is_reported_with_the_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"BK_PIPELINE_MARKERS names .*nowhere\.toml.*No such"):
        load_rules(tmp_path / "nowhere.toml", dataset="ci")
    with pytest.raises(ConfigError, match=r"BK_PIPELINE_MARKERS names .*cannot be read"):
        load_rules(tmp_path, dataset="ci")


def test_documented_rules_are_valid(load):
    [text] = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)

    rules = load(text)

    assert [rule.id for rule in rules.rules] == [
        "deploys",
        "rollbacks",
        "failed-main",
        "long-queue",
        "regressions",
    ]
    assert set(rules.colors) == {rule.type for rule in rules.rules}
