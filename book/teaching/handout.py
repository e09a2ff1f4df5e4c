"""Student notebooks from the solved exercises beside this file: solutions out, `# YOUR CODE HERE` in.

    python book/teaching/handout.py            # write student/*.ipynb
    python book/teaching/handout.py --check    # 1 if one of them is not what its source gives

A solution stands between `# BEGIN SOLUTION` and `# END SOLUTION` in `exercises/*.py` (jupytext, percent format).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$", flags=re.MULTILINE | re.DOTALL)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> int:
    """Write or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    stale = 0
    for source in sorted((FOLDER / "exercises").glob("*.py")):
        target, text = FOLDER / "student" / f"{source.stem}.ipynb", student_notebook(source)
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if args.check:
            print(f"{target.name} is not what {source.name} gives; run make exercises", file=sys.stderr)
        else:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(target.name)
    return int(args.check and stale > 0)


def student_notebook(source: Path) -> str:
    """The text of the student notebook of a solved source; no outputs, ids that follow from place and text."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.source = without_solution(cell.source, f"{source.name}, cell {number}")
        cell.metadata = nbformat.from_dict({})
        cell.id = hashlib.sha1(f"{number} {cell.source}".encode()).hexdigest()[:8]
    return nbformat.writes(notebook) + "\n"


def without_solution(code: str, where: str) -> str:
    """A cell with each solution block replaced by a line to be filled in.

    Raises:
        ValueError: a block that is not closed, or not opened.
    """
    code = SOLUTION.sub(r"\1# YOUR CODE HERE\n\1raise NotImplementedError", code)
    if "# BEGIN SOLUTION" in code or "# END SOLUTION" in code:
        raise ValueError(f"{where}: a solution needs both # BEGIN SOLUTION and # END SOLUTION")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
