"""Two archives to hand out: what students get, and what the lecturer has besides.

    python book/teaching/packs.py        # build/packs/student.zip, instructor.zip; after make slides and make print

The student's holds the exercises without solutions, the slides without the speaker's notes, the page "DMPO on one page" and how to
install; the instructor's the solved exercises, the wrong solutions that the checks are tested on, the session plans and the rubric.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
NOTES = re.compile(r'<aside class="notes">.*?</aside>', flags=re.DOTALL)
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+notebooks/[^)]*\)")  # a link to the repository
READMES = {
    "student.zip": """Distribution Matching Policy Optimization: course material

1. Get the repository, open a terminal in it, and run `make lab` (Linux, macOS, or WSL; Python 3.10 or newer).
2. Open exercises/*.ipynb in JupyterLab. Write your functions at `# YOUR CODE HERE`; `check(function)` says if they are right.
3. slides/*.html open in any browser, without a network; sheet.pdf is the method on one page.

No installation? Read along in the slides and in the book's page "Play with the method", which needs a browser alone.
""",
    "instructor.zip": """Distribution Matching Policy Optimization: for the lecturer

index.md is the plan of the course, session1.md to session3.md the sessions by the minute, rubric.md how the assignment is marked.
solutions/*.py are the exercises with their solutions, wrong_solutions/*.py the mistakes to expect, decks/*.md the sources of the slides.
""",
}


def contents(build: Path) -> dict[str, dict[str, Path]]:
    """Archive → name in it → file.

    Raises:
        FileNotFoundError: slides or the printed sheet have not been made yet.
    """
    decks = {f"decks/{path.name}": path for path in sorted((FOLDER / "decks").glob("*.md"))}
    shown = [path for path in sorted((build / "slides").rglob("*")) if path.is_file()]
    current = {Path(name).stem for name in decks}  # a deck of an earlier course may still lie there
    slides = {f"slides/{path.relative_to(build / 'slides')}": path for path in shown if path.suffix != ".html" or path.stem in current}
    if not slides or not (build / "print" / "sheet.pdf").is_file():
        raise FileNotFoundError("the slides or build/print/sheet.pdf are missing: run make slides and make print first")
    exercises = {f"exercises/{path.name}": path for path in sorted((FOLDER / "student").glob("*.ipynb"))}
    solved = {f"solutions/{path.name}": path for path in sorted((FOLDER / "exercises").glob("*.py"))}
    wrong = {f"wrong_solutions/{path.name}": path for path in sorted((FOLDER / "exercises" / "wrong").glob("*.py"))}
    plans = {path.name: path for path in sorted(FOLDER.glob("*.md"))}
    return {
        "student.zip": {**exercises, **slides, "sheet.pdf": build / "print" / "sheet.pdf"},
        "instructor.zip": {**solved, **wrong, **plans, **decks},
    }


def for_students(path: Path) -> bytes:
    """A file as students get it: slides without notes, notebooks without links out of the archive."""
    if path.suffix == ".html":
        return NOTES.sub("", path.read_text(encoding="utf-8")).encode()
    if path.suffix == ".ipynb":
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = OUTSIDE.sub(r"\1", cell.source)
        return nbformat.writes(notebook).encode()
    return path.read_bytes()


def main() -> int:
    """Write both; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder with slides and print, in which packs is made")
    build = parser.parse_args().build
    try:
        packs = contents(build)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    (build / "packs").mkdir(exist_ok=True)
    for name, files in packs.items():
        with zipfile.ZipFile(build / "packs" / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.txt", READMES[name])
            for inside, path in files.items():
                archive.writestr(inside, for_students(path) if name == "student.zip" else path.read_bytes())
        print(build / "packs" / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
