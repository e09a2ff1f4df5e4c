"""Pictures of the figures that can be touched, for readers without scripts and for print: book/static/touch_NAME.png.

python -m book.fallbacks        # after python -m book.build; needs Chromium
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

from selenium import webdriver

from book.build import STAGE

STATIC = Path(__file__).parent / "static"
WIDTH = 800
# What a reader would do first, so that there is something to see.
FIRST = {
    "gaussians": "root.querySelectorAll('button')[0].click()",
    "samplers": "move(12)",
    "flow": "move(3)",
}
MOVE = """
const root = document.querySelector(`[data-figure=${arguments[0]}]`);
const move = (to) => { const s = root.querySelector('input[type=range]'); s.value = to; s.dispatchEvent(new Event('input')); };
"""


def main() -> None:
    """Every figure of the page, as it is after `FIRST`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for flag in ("--headless=new", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},1200"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get((STAGE / "_build" / "html" / "play.html").as_uri())
        names = driver.execute_script("return Array.from(document.querySelectorAll('[data-figure]')).map(e => e.dataset.figure)")
        for name in names:
            driver.execute_script(MOVE + FIRST.get(name, ""), name)
        driver.execute_async_script("setTimeout(arguments[0], 3000)")  # the fit runs, one picture after the other
        for name in names:
            box = driver.execute_script(
                MOVE + "const r = root.getBoundingClientRect(); return [r.x, r.y + scrollY, r.width, r.height]", name
            )
            clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}
            taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
            (STATIC / f"touch_{name}.png").write_bytes(base64.b64decode(taken["data"]))
            print(STATIC / f"touch_{name}.png")
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
