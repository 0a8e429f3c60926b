"""The Markdown documents: links lead somewhere, and decision records say how they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DECISIONS = ROOT / "docs" / "decisions"


def _text(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", _text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in _anchors(linked), f"{target}: no such heading"


RECORDS = sorted(DECISIONS.glob("0*.md"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_decision_record_has_a_status_and_a_date(path: Path) -> None:
    form = re.compile(
        r"# (?P<number>\d+)\. (?P<title>.+)\n\n"
        r"Status: (?P<status>accepted|superseded by \[\d+\]\(.+\.md\))\n"
        r"Date: \d{4}-\d\d-\d\d\n\n"
    )
    found = form.match(path.read_text("utf-8"))
    assert found, "it begins with a title, Status: and Date:"
    number = int(found["number"])
    assert path.name.startswith(f"{number:04}-")
    index = (DECISIONS / "README.md").read_text("utf-8")
    line = f"| {number} | [{found['title']}]({path.name}) | {found['status']} |"
    assert line in index.splitlines(), f"docs/decisions/README.md lacks: {line}"


def test_decision_records_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


# A changelog names what there was.
NEWEST = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]


@pytest.mark.parametrize("path", NEWEST, ids=lambda path: str(path.relative_to(ROOT)))
def test_make_targets_are_there(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    text = path.read_text("utf-8")
    for code in re.findall(r"`(make [^`]+)`|^\$? *(make .+)$", text, re.MULTILINE):
        words = re.sub(r"#.*", "", "".join(code)).split()[1:]
        named = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
        assert set(named) <= targets, f"`{''.join(code)}`: the Makefile has no such target"


_BASES = (ROOT, ROOT / "layers" / "marketdata" / "src", ROOT / "layers/marketdata/src/marketdata")
_MADE = re.compile(r"\.local/|incoming/|~|/")
"""Where paths begin that are not the repository's."""


@pytest.mark.parametrize("path", NEWEST, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path: Path) -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|sh|json|ya?ml|toml|txt|md|in))`", _text(path))
    for name in named:
        if not _MADE.match(name):
            assert any((base / name).exists() for base in _BASES), f"{name}: no such file"
