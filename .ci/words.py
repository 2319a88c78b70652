"""Fail if a retired word is used in names or prose. Run by `make check`.

The project's terms are those of its field. Each retired word names its replacement.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Released entries of the changelog keep the names of their time, and this file lists them.
EXEMPT = {"CHANGELOG.md", ".ci/words.py"}
# Names that are stored, or not ours.
KEPT = {
    ("bk_pipeline/store/spans.py", "set_aside"),  # a key in the footer of existing files
    ("bk_pipeline_tests/ledger/cluster.py", "nobody"),  # a Unix account
}
SUFFIXES = {".example", ".md", ".py", ".sql", ".toml", ".yaml"}
# Retired word, as a regular expression over whole words, and what to use instead.
RETIRED = {
    r"set(?:s|ting)? aside": "quarantined",
    r"recipes?": "transform fingerprint",
    r"mend(?:s|ed|ing)?": "sanitize, repair or fix",
    r"re-?reads? of the night|nightly reread|nightly_reread": "nightly_reconcile",
    r"take(?:s|n)? turns|took turns|turns lock": "delivery lock",
    r"parties": "destination ids",
    r"sheets?": "raw page",
    r"siev(?:e|es|ed|ing)": "page filter",
    r"befalls?|befell|befallen": "inject",
    r"remarks?|remarked": "warning",
    r"nobody|somebody": "no one, or the thing itself",
    r"who(?:so)?ever": "the caller, the client, …",
    r"came of it|come of it|comes of it": "result",
    r"is no text|are no text": "is not valid UTF-8",
    r"everything accepted|nothing set aside": "all_accepted, no_quarantined_builds",
}
PATTERN = re.compile(
    "|".join(
        rf"(?P<w{number}>(?<![a-z]){word.replace(' ', '[ _]')}(?![a-z]))"
        for number, word in enumerate(RETIRED)
    ),
    re.IGNORECASE,
)
# Words joined in one name: SetAside, set_aside.
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def findings(path: Path) -> list[str]:
    """One line for each retired word in the file at `path`."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for match in PATTERN.finditer(CAMEL.sub("_", line)):
            if (str(path.relative_to(ROOT)), match[0]) in KEPT:
                continue
            instead = list(RETIRED.values())[int(match.lastgroup.removeprefix("w"))]
            found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: use {instead}")
    return found


def main() -> int:
    """Print the findings of all tracked files; 1 if there are any."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name and name not in EXEMPT]
    found = [
        line
        for path in paths
        if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink()
        for line in findings(path)
    ]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
