"""What is shown or handed out: every slide fits the screen, with its answers; the method on one page is one page."""

import shutil
import subprocess
import sys

import pytest
from conftest import HTML, ROOT, SECONDS, Traffic
from selenium.webdriver.support.ui import WebDriverWait

from book.printed import print_page

pytestmark = pytest.mark.browser
DECKS = [path.stem for path in sorted((ROOT / "book" / "teaching" / "decks").glob("*.md"))]
TOO_LARGE = """
const found = [];
document.querySelectorAll(".reveal .slides > section").forEach((_, i) => {
  Reveal.slide(i);
  document.querySelectorAll(".fragment").forEach(f => f.classList.add("visible"));
  const e = document.querySelector("section.present section.present") ?? document.querySelector("section.present");
  if (e.scrollHeight > e.clientHeight + 2 || e.scrollWidth > e.clientWidth + 2) found.push([i + 1, e.scrollHeight, e.clientHeight]);
});
return found;
"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    subprocess.run([sys.executable, ROOT / "book" / "teaching" / "slides.py", "--output", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize("deck", DECKS)
def test_every_slide_fits_with_its_answer(browser, decks, deck):
    browser.get("about:blank")
    Traffic(browser)
    browser.get((decks / f"{deck}.html").as_uri())
    ready = "return window.Reveal?.isReady() && document.querySelectorAll('mjx-container').length > 0"
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(ready))
    assert browser.execute_script(TOO_LARGE) == []
    traffic = Traffic(browser)
    assert traffic.hosts <= {None} and traffic.errors == []


def test_the_method_on_one_page_is_printed_on_one(browser, tmp_path):
    assert print_page(shutil.which("chromium") or "google-chrome", HTML / "sheet.html", tmp_path / "sheet.pdf") == 1
    assert (tmp_path / "sheet.pdf").read_bytes().startswith(b"%PDF")
