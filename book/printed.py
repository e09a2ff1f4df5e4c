"""What can be printed: the page "DMPO on one page", and the whole book in one file.

python -m book.printed        # after python -m book.build; build/print/sheet.pdf, book.pdf; needs Chromium
"""

from __future__ import annotations

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
    for source, name in ((STAGE / "_build" / "html" / "sheet.html", "sheet"), (single / "intro.html", "book")):
        print_page(chromium, source, PRINT / f"{name}.pdf")
    return 0


def print_page(chromium: str, source: Path, target: Path) -> None:
    """A page as PDF, when its formulas are set."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=120000"]
    subprocess.run([chromium, *flags, f"--print-to-pdf={target}", source.as_uri()], check=True, timeout=SECONDS, capture_output=True)
    print(target)


if __name__ == "__main__":
    raise SystemExit(main())
