"""Every page of the book in a browser: it opens, asks nobody else for anything, shows its formulas and figures; search; both themes."""

import re

import pytest
from conftest import HTML, SCREENSHOTS, SECONDS, Traffic
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html") if "_static" not in path.parts) or ["index.html"]
SHOWN = ["intro", "method", "equations", "results", "configuration", "api/dmpo_ref.weights", "howto/sampler", "glossary", "bibliography"]
SHOWN += [name.removesuffix(".html") for name in PAGES if name.startswith("notebooks/")]

READY = """
const formulas = document.querySelectorAll("span.math, div.math").length;
const rendered = document.querySelectorAll("mjx-container").length;
const images = Array.from(document.images);
return document.readyState === "complete" && (formulas === 0 || rendered > 0) && images.every(i => i.complete);
"""
FOUND = """
return {
  broken: Array.from(document.images).filter(i => i.naturalWidth === 0).map(i => i.src),
  formulas: document.querySelectorAll("span.math, div.math").length,
  rendered: document.querySelectorAll("span.math mjx-container, div.math mjx-container").length,
  errors: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
  title: document.title,
  unnamed: Array.from(document.querySelectorAll("article img")).filter(
    i => !i.classList.contains("toggler") && (i.alt.length < 12 || /^[^ ]*[/][^ ]*$|[.](png|gif|svg)$/.test(i.alt))
  ).map(i => i.src),
  wide: Array.from(document.querySelectorAll(".bd-article section > *")).filter(
    e => e.getBoundingClientRect().right > document.querySelector(".bd-article").getBoundingClientRect().right + 2
  ).map(e => e.outerHTML.slice(0, 80)),
};
"""
CONTRAST = """
function luminance(color) {
  const c = color.match(/[0-9.]+/g).slice(0, 3).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
}
const text = luminance(getComputedStyle(document.querySelector("article p")).color);
const ground = luminance(getComputedStyle(document.body).backgroundColor);
return [(Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05), ground];
"""


def open_page(browser, url):
    """The page, when formulas and figures are there, and what it asked for."""
    browser.get("about:blank")
    Traffic(browser)  # forget what was before
    browser.get(url)
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(READY))
    return browser.execute_script(FOUND), Traffic(browser)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_with_all_that_is_on_it(browser, site, page):
    found, traffic = open_page(browser, f"{site}/{page}")
    assert traffic.hosts == {"127.0.0.1"}
    assert traffic.failed == []
    assert traffic.errors == []
    assert found["broken"] == []
    assert found["rendered"] == found["formulas"]
    assert found["errors"] == 0
    assert found["wide"] == []
    assert found["unnamed"] == []
    assert page == "index.html" or found["title"]  # the index only leads on
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 391
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith("notebooks/")])
def test_no_code_of_a_notebook_scrolls_sideways(browser, site, page):
    browser.get(f"{site}/{page}")
    wide = "return Array.from(document.querySelectorAll('.cell_input pre')).filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.execute_script(wide) == 0


def test_search_finds_baseline(browser, site):
    _, traffic = open_page(browser, f"{site}/search.html?q=baseline")
    # Results come in one by one, in an order of their own: wait for the last.
    finished = "return document.querySelector('.search-summary')?.innerText.startsWith('Search finished')"
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(finished))
    links = "return Array.from(document.querySelectorAll('#search-results li a')).map(a => a.getAttribute('href'))"
    assert "notebooks/04_weight_baseline.html" in browser.execute_script(links)
    assert traffic.hosts == {"127.0.0.1"}


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_can_be_read_in_both_themes(browser, site, page):
    for theme in ("light", "dark"):
        browser.get(f"{site}/{page}.html")
        browser.execute_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');")
        open_page(browser, f"{site}/{page}.html")
        contrast, ground = browser.execute_script(CONTRAST)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(SCREENSHOTS / f"{page.replace('/', '_')}_{theme}.png"))
        assert contrast >= 4.5
        assert (ground > 0.5) == (theme == "light")


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith("notebooks/")])
def test_terms_of_a_notebook_lead_to_the_glossary_and_say_what_they_mean(page):
    found = r'class="glossary-term[^"]*" href="([^"#]*)#([^"]*)" title="([^"]*)">([^<]*)<'
    links = re.findall(found, (HTML / page).read_text(encoding="utf-8"))
    assert len(links) >= 5
    for file, label, meaning, _ in links:
        assert f'id="{label}"' in ((HTML / page).parent / file).read_text(encoding="utf-8")
        assert len(meaning) > 20 and "\\" not in meaning
    used = [term.casefold().removesuffix("s") for *_, term in links]
    assert len(set(used)) == len(used)  # the first time only
