"""Every relative link leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, anchor, headings, prose

LINKS = [
    pytest.param(page, target, id=f"{page.relative_to(ROOT)}-{target}")
    for page in PAGES
    for target in dict.fromkeys(re.findall(r"\]\(([^)\s]+)\)", prose(page)))
    if not re.match(r"https?:", target)
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_the_link_leads_somewhere(page: Path, target: str) -> None:
    path, _, fragment = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), f"{target} is not there"
    if page.is_relative_to(ROOT / "docs"):
        assert file.is_relative_to(ROOT / "docs"), f"{target} leads out of the site"
    if fragment:
        assert fragment in [anchor(h) for h in headings(file)], f"{file.name} has no heading for #{fragment}"


def test_every_page_is_in_the_sites_navigation() -> None:
    site = (ROOT / "docs" / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert f": {page.relative_to(ROOT / 'docs')}" in site


def test_links_to_the_web_are_few_and_known() -> None:
    """Nothing but papers and the standards that the changelog names."""
    known = ("https://arxiv.org/abs/", "https://keepachangelog.com", "https://semver.org")
    for page in (p for p in PAGES if not p.is_relative_to(ROOT / "plugins")):
        for url in re.findall(r"\]\((https?:[^)\s]+)\)", prose(page)):
            assert url.startswith(known), url


def test_the_drawn_tree_is_the_one_that_the_script_draws() -> None:
    namespace: dict[str, object] = {"__file__": str(ROOT / "docs" / "draw_tree.py"), "__name__": "draw_tree"}
    exec((ROOT / "docs" / "draw_tree.py").read_text(), namespace)
    assert namespace["svg"]() == (ROOT / "docs" / "images" / "process_tree.svg").read_text()  # type: ignore[operator]


def test_the_first_page_shows_the_kinds_of_pages_that_the_navigation_has() -> None:
    site = (ROOT / "docs" / "mkdocs.yml").read_text().partition("nav:")[2].partition("markdown_extensions:")[0]
    _, *navigation = re.split(r"^  - ([\w ]+):$", site, flags=re.M)
    _, *first_page = re.split(r"^## (.+)$", (ROOT / "docs" / "index.md").read_text(), flags=re.M)
    assert navigation[::2] == first_page[::2] == ["First steps", "Recipes", "Reference", "Explanation"]
    for pages, shown in zip(navigation[1::2], first_page[1::2], strict=True):
        listed = [page for page in re.findall(r": (\S+\.md)", pages) if page == "results/README.md" or "/" not in page]
        assert re.findall(r"\]\((\S+\.md)\)", shown) == listed
