"""The documentation as a site: built as `make site` does, and read as a browser would."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from bk_pipeline_tests.test_docs import PAGES, PROJECT

TOP = "http://site/"
# What a page loads by itself, and so what must not come from elsewhere.
LOADED = {("link", "href"), ("script", "src"), ("img", "src")}


class Page(HTMLParser):
    """The links, the resources and the anchors of a page."""

    def __init__(self, url, text):
        super().__init__()
        self.url = url
        self.links, self.loaded, self.anchors = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif (tag, name) in LOADED and ("rel", "canonical") not in attrs:
                self.loaded.add(urljoin(self.url, value))
            elif (tag, name) == ("a", "href"):
                self.links.add(urljoin(self.url, value))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    command = [mkdocs, "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    found = {}
    for file in site.rglob("index.html"):
        url = urljoin(TOP, file.parent.relative_to(site).as_posix() + "/").replace("/./", "/")
        found[url] = Page(url, file.read_text())
    return found


def test_every_page_of_the_project_is_in_the_site(pages):
    names = {url.removeprefix(TOP).rstrip("/") for url in pages}
    stems = {"" if page.stem == "README" else page.stem for page in PAGES}
    assert stems | {"CHANGELOG"} == names


def test_every_page_is_two_clicks_from_the_start_page(pages):
    reached, start = {TOP}, {TOP}
    for _ in range(2):
        start = {urldefrag(link)[0] for url in start for link in pages[url].links} & pages.keys()
        reached |= start
    assert reached == pages.keys()


def test_no_link_is_dead(site, pages):
    for page in pages.values():
        for link in page.links | page.loaded:
            if not link.startswith(TOP):
                continue
            url, anchor = urldefrag(link)
            if url in pages:
                assert not anchor or unquote(anchor) in pages[url].anchors, f"{page.url}: {link}"
            else:
                assert (site / unquote(url.removeprefix(TOP))).is_file(), f"{page.url}: {link}"


def test_nothing_is_loaded_from_elsewhere(pages):
    for page in pages.values():
        assert not {one for one in page.loaded if not one.startswith((TOP, "data:"))}, page.url


def test_items_of_lists_keep_their_numbers_and_blocks(site):
    steps = (site / "setup" / "index.html").read_text()
    [_, numbered, *others] = steps.split("<ol>")
    assert not others
    items = numbered.partition("</ol>")[0].split("<li>")[1:]
    assert len(items) == 6
    assert sum("<pre>" in item for item in items) == 4


def test_search_knows_every_page(site, pages):
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    assert {urldefrag(urljoin(TOP, one["location"]))[0] for one in entries} == pages.keys()


def test_there_is_a_light_and_a_dark_scheme(site):
    start = (site / "index.html").read_text()
    for scheme in ("default", "slate"):
        assert f'data-md-color-scheme="{scheme}"' in start
