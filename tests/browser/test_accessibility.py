"""The rules of axe-core (WCAG and good practice) on pages of every kind, in both themes: no serious fault."""

import pytest
from conftest import ROOT, SECONDS
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.browser
AXE = ROOT / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = [
    "intro",
    "method",
    "play",
    "paper",
    "equations",
    "glossary",
    "configuration",
    "results",
    "text",
    "howto/task",
    "api/dmpo_ref.weights",
]
PAGES += ["notebooks/00_quickstart", "notebooks/04_weight_baseline", "notebooks/10_benchmarks", "book/teaching/student/01_warm_up"]
RUN = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then(found => done(
  found.violations.filter(fault => ["serious", "critical"].includes(fault.impact)).map(
    fault => `${fault.id}: ${fault.help}: ${fault.nodes.length} times, first ${fault.nodes[0].html.slice(0, 200)}`
  )
));
"""
READY = "return document.readyState === 'complete' && !document.querySelector('.dmpo-figure:empty')"


@pytest.fixture(scope="module")
def axe():
    if not AXE.is_file():
        pytest.skip("axe-core is missing: make test-browser fetches it with npm")
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_no_serious_fault(browser, site, axe, page, theme):
    browser.get(f"{site}/{page}.html")
    browser.execute_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}');")
    browser.get(f"{site}/{page}.html")
    WebDriverWait(browser, SECONDS).until(lambda b: b.execute_script(READY))
    browser.execute_script(axe)
    assert browser.execute_async_script(RUN) == []


def test_a_fault_is_found(browser, site, axe):
    browser.get(f"{site}/intro.html")
    browser.execute_script("document.querySelector('article').insertAdjacentHTML('beforeend', '<img src=\"x.png\"><button></button>')")
    browser.execute_script(axe)
    assert {line.partition(":")[0] for line in browser.execute_async_script(RUN)} >= {"image-alt", "button-name"}
