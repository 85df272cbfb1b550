"""The pages in Chinese have the commands, flags, paths, links and numbers of those in English."""

import os
import re
from collections import Counter

import pytest
from conftest import ROOT

PAGES = ["README.md", "docs/six-ideas.md"]


def chinese(page):
    return page.replace(".md", ".zh-CN.md")


def read(page):
    """A page without the line that links it to its translation."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        text = file.read()
    return re.sub(r"^.*(简体中文|English).*$\n", "", text, count=1, flags=re.MULTILINE)


def code_blocks(text):
    """Lines of commands and programs, without their comments."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(re.sub(r"\s+# .*", "", line))
    return lines


def prose(text):
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def spans(text):
    return Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text)))


def links(text):
    return Counter(link.replace(".zh-CN", "") for link in re.findall(r"\]\(([^)]+)\)", text))


def numbers(text):
    """Those of the prose, outside of `code` and links; comments of commands have some, too."""
    comments = "\n".join(re.findall(r"^    .*?# (.*)$", text, re.MULTILINE))
    plain = re.sub(r"`[^`]+`|\]\([^)]+\)", " ", prose(text) + comments)
    return Counter(re.findall(r"(?<![\w.])[.]?\d(?:[\d,.]*\d)?(?:e-?\d+)?", plain))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("what", [code_blocks, spans, links, numbers])
def test_neither_page_falls_behind(page, what):
    ours, theirs = what(read(page)), what(read(chinese(page)))
    if isinstance(ours, Counter):
        assert (ours - theirs, theirs - ours) == (Counter(), Counter())
    else:
        assert ours == theirs


@pytest.mark.parametrize("page", PAGES)
def test_each_page_links_to_the_other_at_its_top(page):
    for here, there in ((page, chinese(page)), (chinese(page), page)):
        with open(os.path.join(ROOT, here), encoding="utf-8") as file:
            top = "".join(file.readlines()[:4])
        assert f"]({os.path.basename(there)})" in top


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_chinese_pages_lead_somewhere(page):
    folder = os.path.dirname(os.path.join(ROOT, page))
    with open(os.path.join(ROOT, chinese(page)), encoding="utf-8") as file:
        targets = re.findall(r"\]\((?!http)([^)#]+)", file.read())
    assert targets
    assert [one for one in targets if not os.path.exists(os.path.join(folder, one))] == []
