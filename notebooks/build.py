"""Notebook sources are the `.py` files beside this one (jupytext, percent format); the `.ipynb` files are made from them.

    python notebooks/build.py             # make every notebook whose source has changed; run those whose code has
    python notebooks/build.py 03 07       # make and run these, changed or not
    python notebooks/build.py --check     # 1 if a notebook is not what its source says, or holds more than it should

Review the sources; the notebooks hold the same cells with their outputs, and no metadata that changes from run to run.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SECONDS_PER_CELL = 300
KEPT = ("tags", "alt", "jupyter")  # metadata of a cell; alt says what its image shows
WIDTH = 88  # characters of a line of code: as many as a page of the book shows
IGNORED = "nbval-ignore-output"  # the output of such a cell may differ: figures, progress bars


def main() -> int:
    """Build or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="first letters of notebooks to make; none: those whose source has changed")
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    found = [path for path in sorted(FOLDER.glob("[0-9]*.py")) if not args.names or path.name.startswith(tuple(args.names))]
    if not found:
        print(f"no notebook source in {FOLDER} begins with {' or '.join(args.names) or 'a digit'}", file=sys.stderr)
        return 2
    problems = [(source, problem) for source in found if (problem := compare(source))]
    if args.check:
        for source, problem in problems:
            print(f"{source.name}: {problem}; run make notebooks", file=sys.stderr)
        return int(bool(problems))
    for source in found if args.names else [source for source, _ in problems]:
        start = time.perf_counter()
        build(source, run=bool(args.names))
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s")
    return 0


def build(source: Path, *, run: bool) -> None:
    """Write the notebook of a source: run, or with the outputs it has if no code has changed.

    A cell that raises leaves the old notebook in place.
    """
    notebook, target = read(source), source.with_suffix(".ipynb")
    old = nbformat.read(target, as_version=4) if target.is_file() else nbformat.v4.new_notebook()
    before, after = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (old, notebook))
    if run or [cell.source for cell in before] != [cell.source for cell in after]:
        options = {"timeout": SECONDS_PER_CELL, "kernel_name": "python3", "resources": {"metadata": {"path": str(FOLDER)}}}
        NotebookClient(notebook, **options).execute()
    else:
        for cell, known in zip(after, before, strict=True):
            cell.outputs = known.outputs
    temporary = target.with_suffix(".partial")
    nbformat.write(strip(notebook), temporary)
    temporary.replace(target)


def read(source: Path) -> NotebookNode:
    """The notebook of a source, without outputs; a cell's id follows from its place and its text."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        if "hide-input" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}  # folded in JupyterLab too
        cell.id = hashlib.sha1(f"{number} {cell.source}".encode()).hexdigest()[:8]
    return notebook


def strip(notebook: NotebookNode) -> NotebookNode:
    """Without what changes from run to run: times, widget state, progress bars, the pieces in which text arrived."""
    notebook.metadata = nbformat.from_dict(METADATA)
    number = 0
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)})
        if cell.cell_type == "code":
            number += 1
            # stderr holds progress bars and warnings; nothing on a page is read from there.
            cell.outputs = merge_streams([output for output in cell.outputs if output.get("name") != "stderr"])
            cell.execution_count = number
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
                if "metadata" in output:
                    output.metadata = nbformat.from_dict({})
                if "data" in output:
                    output.data.pop("application/vnd.jupyter.widget-view+json", None)  # a random id, of use to a running kernel only
    return notebook


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of printed text that follow one another as one."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" and merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def compare(source: Path) -> str | None:
    """What is wrong with the notebook of a source, in words; None if all is well."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return "there is no notebook of it yet"
    notebook, wanted = nbformat.read(path, as_version=4), read(source)
    here, there = ([(c.cell_type, c.source, *map(c.metadata.get, KEPT)) for c in book.cells] for book in (notebook, wanted))
    if here != there:
        different = next((i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), min(len(here), len(there)))
        return f"cell {different} of the notebook is not that of the source"
    if nbformat.writes(strip(nbformat.from_dict(notebook))) != nbformat.writes(nbformat.read(path, as_version=4)):
        return "the notebook holds metadata, other execution counts or stderr"
    if any(output.output_type == "error" for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        return "a cell raised"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})) != ("alt" in cell.metadata):
            return f'the cell "{cell.source[:40]}…" needs alt="…" in its first line if it shows an image, and only then'
        if wide := [line for line in cell.source.splitlines() if len(line) > WIDTH]:
            return f'the line "{wide[0].strip()[:40]}…" has more than {WIDTH} characters'
    if 4 * sum(IGNORED in cell.metadata.get("tags", []) for cell in code) >= len(code):
        return f"a quarter of the code cells or more are tagged {IGNORED}"
    return None


if __name__ == "__main__":
    raise SystemExit(main())
