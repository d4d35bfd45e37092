"""Every command, key, name, link and piece of YAML in the documents is one that there is."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Final

import pytest
from docs_commands import command_complaints, fault_of, shown_in
from docs_names import link_complaints, name_complaints
from docs_pages import Block, Complaint, Page, pages
from docs_yaml import yaml_complaints

from fleet.join.failures import FAILURES
from fleet.lifecycle import State
from pxe.diagnosis.catalogue import RULES

PAGES: Final = {page.name: page for page in pages()}


def complaints(page: Page) -> Iterator[Complaint]:
    """Everything that a reader of the page would stumble over."""
    yield from command_complaints(page)
    yield from link_complaints(page, PAGES)
    yield from name_complaints(page)
    yield from yaml_complaints(page)


@pytest.mark.parametrize("name", PAGES, ids=str)
def test_a_page_names_nothing_that_there_is_not(name: str) -> None:
    found = sorted(complaints(PAGES[name]), key=lambda complaint: complaint.line)
    assert not found, "\n" + "\n".join(map(str, found))


def test_the_pages_show_commands_files_and_links() -> None:
    shown = [line for page in PAGES.values() for block in page.blocks for line in shown_in(block)]
    assert len(shown) > 140, "the reader of the pages no longer finds their commands"
    assert sum(block.language == "yaml" for page in PAGES.values() for block in page.blocks) >= 2
    assert sum(len(page.links) for page in PAGES.values()) > 20


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        page = PAGES[ahead.pop()]
        if page.name in seen:
            continue
        seen.add(page.name)
        folder = page.name.rpartition("/")[0]
        for link in page.links:
            path = posixpath.normpath(f"{folder or '.'}/{link.text.partition('#')[0]}")
            if path in PAGES:
                ahead.append(path)
    assert set(PAGES) - seen == set(), "link them from docs/index.md"


def test_every_problem_that_is_recognised_stands_under_its_symptom() -> None:
    """The page about symptoms has each rule, each class of failed joins, and none that there is not."""
    page = PAGES["docs/troubleshooting.md"]
    rows = [span.text for span in page.prose if span.text.startswith("| `")]
    first = [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]
    named = [word for word in first if " " not in word]  # commands, in the heads of tables
    known = {rule.id for rule in RULES} | set(FAILURES) | set(State)
    assert [word for word in named if word not in known] == []
    assert ({rule.id for rule in RULES} | set(FAILURES)) - set(named) == set()
    assert len(named) == len(set(named)), "named twice"


BAD: Final = {
    "option": ("```console\n$ bramble doctor --bord x\n```", 2, "--bord"),
    "command": ("```\nbramble check\nbramble frobnicate\n```", 3, "frobnicate"),
    "argument missing": ("```\nbramble approve\n```", 2, "NODE is missing"),
    "argument too many": ("```\nbramble check a.yaml b.yaml\n```", 2, "b.yaml"),
    "choice": ("```\nbramble dhcp settings --for bind\n```", 2, "bind"),
    "behind a redirection": ("```\nbramble serve > x.log 2>&1 --nope &\n```", 2, "--nope"),
    "number": ("```\nbramble doctor --listen soon\n```", 2, "soon"),
    "group": ("```\nbramble token\n```", 2, "group"),
    "second of a line": ("```\ncd x && sudo bramble serv\n```", 2, "serv"),
    "in a container": ("```\npodman exec box bramble statuz\n```", 2, "statuz"),
    "in a pod": ("```\nkubectl -n x exec -it box-0 -- bramble statuz\n```", 2, "statuz"),
    "continued line": ("```\nbramble build \\\n  --nope\n```", 2, "--nope"),
    "in backticks": ("Type `bramble frobnicate`.", 1, "frobnicate"),
    "in backticks over a line's end": ("one\ntype `bramble\nfrobnicate` now", 2, "frobnicate"),
    "make": ("`make everything`", 1, "everything"),
    "link": ("[x](nowhere.md)", 1, "nowhere.md"),
    "picture": ('\n<img src="no.svg">', 2, "no.svg"),
    "anchor": ("[x](security.md#nothing-of-the-kind)", 1, "nothing-of-the-kind"),
    "own anchor": ("# One\n\n[x](#two)", 3, "#two"),
    "file": ("`fleet/no_such.py`", 1, "no such file"),
    "test": ("`test_documents.py::test_no_such`", 1, "test_no_such"),
    "module": ("`fleet.no_such`", 1, "no_such"),
    "attribute": ("`fleet.lifecycle.NoSuch`", 1, "NoSuch"),
    "key": ("`network.no_such`", 1, "no such key"),
    "value": ("`network: {dhcp: always}`", 1, "always"),
    "metric": ("`bramble_no_such_total`", 1, "no such metric"),
    "variable": ("`BRAMBLE_NO_SUCH`", 1, "nothing reads"),
    "route": ("`GET /v1/no-such`", 1, "no such route"),
    "method": ("`DELETE /v1/audit`", 1, "no such route"),
    "lone option": ("`--no-such`", 1, "no command"),
    "state": ("`failed-dreaming`", 1, "no such state"),
    "rule": ("`no-such-problem` is not one", 1, "called so"),
    "condition": ("`no_such_class` either", 1, "called so"),
    "yaml syntax": ("```yaml\nnodes: [\n```", 2, "no YAML"),
    "yaml part": ("```yaml\npolicy: {unknown_bords: hold}\n```", 2, "unknown_bords"),
    "yaml list": ("```yaml\n- {name: a, board: pi9}\n```", 2, "pi9"),
    "yaml whole": ("```yaml\nversion: 1\ncluster: {}\n```", 3, "cluster"),
    "yaml kind": ("```yaml nonsense\na: 1\n```", 2, "nonsense"),
}


@pytest.mark.parametrize(("text", "line", "part"), BAD.values(), ids=BAD.keys())
def test_a_fault_is_found_and_named_with_its_line(text: str, line: int, part: str) -> None:
    page = Page("docs/page.md", text)
    known = {**PAGES, page.name: page}
    found = [
        *command_complaints(page),
        *link_complaints(page, known),
        *name_complaints(page),
        *yaml_complaints(page),
    ]
    assert any(part in complaint.text and complaint.line == line for complaint in found), found
    assert all(str(complaint).startswith("docs/page.md:") for complaint in found)


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ bramble check\nbramble frobnicate is output here\n```",
        '```\nsudo -E env PATH="$PATH" bramble serve   # in another terminal\n```',
        "```\nbramble run pi4-1 -- sh -c 'ls --nope | tail'\n```",
        "```\nbramble api openapi > x.json; bramble nodes --json | jq -r '.nodes[]'\n```",
        "```\nbramble backup /nas/attic-$(date +%F).bramble --passphrase-file ~/.secret\n```",
        "The group `bramble token`, the command `bramble approve`, and `bramble lab …`.",
        '```yaml\n- {name: pi4-1, board: pi4, role: agent, mac: "2c:cf:67:00:00:09", disk: sd}\n```',
        "```yaml kubernetes\nkind: Pod\n```",
        "[x](security.md#secrets) and <https://example.org/none>",
        "`GET /v1/audit`, `network.dhcp: proxy`, `agent.key`, `tests/unit`, `fleet.lifecycle.State`",
        "```\nbramble serve > serve.log 2>&1 &\nbramble check 2>/dev/null\n```",
        "```ini\nbramble frobnicate\n```",
    ],
)
def test_what_is_right_is_left_alone(text: str) -> None:
    page = Page("docs/page.md", text)
    assert not [
        *command_complaints(page),
        *link_complaints(page, PAGES),
        *name_complaints(page),
        *yaml_complaints(page),
    ]


def test_an_open_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match="before line 3 has no end"):
        Page("docs/page.md", "one\n```\nbramble check").blocks  # noqa: B018


def test_two_headings_of_one_text_are_two_anchors() -> None:
    page = Page("docs/page.md", "# The `a` of [b](c.md)\n\n## X\n\n## X\n")
    assert page.anchors == {"the-a-of-b", "x", "x-1"}


def test_help_and_version_want_nothing_more() -> None:
    assert fault_of(["--help"]) is None
    assert fault_of(["approve", "--help"]) is None
    assert fault_of(["--version"]) is None


def test_commands_in_other_languages_are_not_ours() -> None:
    assert not list(shown_in(Block("python", "bramble frobnicate", 1)))
