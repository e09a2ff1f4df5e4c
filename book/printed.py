"""What can be printed: the page "DMPO on one page", and the whole book in one file.

python -m book.printed        # after python -m book.build; build/print/sheet.pdf, book.pdf; needs Chromium
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from book.build import ROOT, STAGE

PRINT = ROOT / "build" / "print"
SECONDS = 300


def main() -> int:
    """Both files; the exit code."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is missing: apt-get install chromium", file=sys.stderr)
        return 2
    single = STAGE / "_build" / "singlehtml"
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", str(STAGE), "--builder", "singlehtml"]
    if code := subprocess.run(command, check=False, cwd=ROOT).returncode:
        return code
    PRINT.mkdir(parents=True, exist_ok=True)
    chapters = len(list((STAGE / "_build" / "html" / "notebooks").glob("*.html")))  # each takes pages
    for source, name, least, most in (
        (STAGE / "_build" / "html" / "sheet.html", "sheet", 1, 1),
        (single / "intro.html", "book", chapters, 10**4),
    ):
        pages = print_page(chromium, source, PRINT / f"{name}.pdf")
        if not least <= pages <= most:
            print(f"{PRINT / name}.pdf has {pages} pages; {least} to {most} were expected", file=sys.stderr)
            return 1
    return 0


def print_page(chromium: str, source: Path, target: Path) -> int:
    """A page as PDF, when its formulas are set; how many sheets of paper it takes."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=120000"]
    subprocess.run([chromium, *flags, f"--print-to-pdf={target}", source.as_uri()], check=True, timeout=SECONDS, capture_output=True)
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", target.read_bytes()))
    print(f"{target}: {pages} pages")
    return pages


if __name__ == "__main__":
    raise SystemExit(main())
