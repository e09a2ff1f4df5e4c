"""Builds the Jupyter Book: pages, notebooks, README and docstrings are staged in build/book, which jupyter-book makes HTML.

    python -m book.build              # build/book/_build/html/index.html
    python -m book.build --stage      # only the sources of the pages

Nothing is executed: the outputs stored in the notebooks are shown. Warnings are errors. What README, LOG, CONTRIBUTING, the docstrings
and the config dataclasses say is taken from there; the book has no second copy of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import yaml

from book.links import Links, write
from book.pages import api_pages, configuration_page, equations_page, modules

BOOK = Path(__file__).parent
ROOT = BOOK.parent
STAGE = ROOT / "build" / "book"
HOWTO = ["task", "reward", "sampler", "objective", "machine", "resume", "benchmarks", "troubleshooting"]
WIDGET = "application/vnd.jupyter.widget-view+json"
SLIDERS = "*The sliders of this cell work in JupyterLab (`make lab`).*"
OWN = ["intro", "method", "sheet", "play", "notation", "published", "results", "paper", "text", "ladder", "scoreboard"]
OWN += ["glossary", "answers", "bibliography"]
DOCUMENTS = {"README.md": "intro.md", "LOG.md": "log.md", "CONTRIBUTING.md": "contributing.md"}


def main() -> int:
    """Stage and build; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="store_true", help="write the sources of the pages, build nothing")
    args = parser.parse_args()
    repository = os.environ.get("DMPO_REPOSITORY", read_settings()["repository"]["url"]).rstrip("/")
    missing = stage(STAGE, repository)
    for problem in missing:
        print(f"book: {problem}; shown without a link", file=sys.stderr)
    if args.stage:
        return 0
    shutil.rmtree(STAGE / "_build", ignore_errors=True)  # pages that are gone, and settings that have changed, must not live on there
    program = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", str(STAGE), "-W", "--keep-going"]
    if code := subprocess.run(command, check=False, cwd=ROOT).returncode:
        return code
    html = STAGE / "_build" / "html"
    index = html / "index.html"  # only leads on; without an icon of its own a browser may ask for /favicon.ico, which is not there
    index.write_text('<link rel="icon" href="_static/favicon.svg" />\n' + index.read_text(encoding="utf-8"), encoding="utf-8")
    for path in html.rglob("*.html"):
        path.write_text(name_controls(path.read_text(encoding="utf-8")), encoding="utf-8")
    remote = [f"{path.relative_to(html)}: {url}" for path in sorted(html.rglob("*.html")) for url in remote_files(path)]
    for found in remote:
        print(f"book: a file of another host is loaded by {found}", file=sys.stderr)
    return int(bool(remote))


def read_settings() -> dict:
    """book/_config.yml."""
    return yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))


def stage(target: Path, repository: str = "") -> list[str]:
    """Write the sources of all pages to `target`; what is there and belongs to no page any more goes. Returns links without a target."""
    texts: dict[str, str] = {}  # staged path → text
    links = Links(ROOT, repository, read_settings()["repository"]["branch"])
    links.pages |= DOCUMENTS
    links.pages |= {path: f"api/{name}.md" for name, path in modules(ROOT).items()}
    own = [BOOK / f"{name}.md" for name in OWN]
    own += [*(BOOK / "howto" / f"{name}.md" for name in HOWTO), *sorted((BOOK / "teaching").glob("*.md"))]
    links.pages |= {str(path.relative_to(ROOT)): str(path.relative_to(BOOK)) for path in own}
    notebooks = [*sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), *sorted((BOOK / "teaching" / "student").glob("*.ipynb"))]
    links.pages |= {str(path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in notebooks}

    for path in own:
        texts[str(path.relative_to(BOOK))] = links.relink(path.read_text(encoding="utf-8"), path, str(path.relative_to(BOOK)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    texts["equations.md"] = links.relink(equations_page(readme), ROOT / "README.md", "equations.md")
    for source, name in DOCUMENTS.items():
        if name not in texts:
            texts[name] = links.relink((ROOT / source).read_text(encoding="utf-8"), ROOT / source, name)
    texts["configuration.md"] = configuration_page()
    texts |= {name: links.relink(text, ROOT / "README.md", name) for name, text in api_pages(ROOT, readme).items()}
    for path in notebooks:
        texts[str(path.relative_to(ROOT))] = notebook_page(path, links)
    texts["_toc.yml"] = yaml.safe_dump(contents(texts), sort_keys=False)
    texts["_config.yml"] = yaml.safe_dump(settings(repository), sort_keys=False, allow_unicode=True)
    texts["static/recorded.js"] = recorded()
    texts["references.bib"] = (BOOK / "references.bib").read_text(encoding="utf-8")

    extra = [*BOOK.glob("static/*"), *BOOK.glob("extensions/*.py"), *BOOK.glob("figures/*")]
    files = {str(path.relative_to(BOOK)): path for path in extra} | links.files
    files |= {f"static/{name}": ROOT / "dmpo_ref" / "plots" / name for name in ("replay.js", "replay.css")}
    write(target, texts, files)
    return links.missing


def recorded() -> str:
    """A script that holds what toy.studies.recordings has written, for pages that are opened as files and so cannot fetch it."""
    data = {name: json.loads((ROOT / "toy" / "results" / f"{name}.json").read_text(encoding="utf-8")) for name in ("flow", "replays")}
    return f"globalThis.dmpoData = {json.dumps(data, separators=(',', ':'))};\n"


def notebook_page(path: Path, links: Links) -> str:
    """A notebook with links that hold in the book, a text for each image, and a line of text where there are sliders."""
    notebook, cells = nbformat.read(path, as_version=4), []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = links.relink(cell.source, path, str(path.relative_to(ROOT)))
            continue
        if alt := cell.metadata.get("alt"):
            cell.metadata["mystnb"] = {"image": {"alt": alt}}
        if any(map(is_widget, cell.outputs)):
            cell.outputs = [output for output in cell.outputs if not is_widget(output)]
            cells.append(nbformat.from_dict({"cell_type": "markdown", "id": f"{cell.id}w", "metadata": {}, "source": SLIDERS}))
    notebook.cells = cells
    return nbformat.writes(notebook)


def is_widget(output: nbformat.NotebookNode) -> bool:
    """Whether an output is sliders, or the text that stands for them where their state is not kept."""
    data = output.get("data", {})
    return WIDGET in data or data.get("text/plain", "").startswith("interactive(")


def contents(texts: dict[str, str]) -> dict:
    """The table of contents, of the pages there are."""

    def chapters(*starts: str) -> list[dict]:
        return [{"file": name.removesuffix(".md")} for start in starts for name in texts if name.startswith(start)]

    api = chapters("api/")
    reference = [*chapters("configuration"), {**api[0], "sections": api[1:]}]
    parts = {
        "The method": chapters("method", "sheet", "play", "notation", "equations", "published", "glossary"),
        "Notebooks": chapters("notebooks/", "answers"),
        "How to": chapters("howto/"),
        "Results": chapters("results", "paper", "text", "ladder", "scoreboard", "log"),
        "Reference": reference,
        "Teaching": chapters("teaching/", "book/teaching/"),
        "The project": chapters("contributing", "bibliography"),
    }
    listed = [{"caption": caption, "chapters": pages} for caption, pages in parts.items() if pages]
    return {"format": "jb-book", "root": "intro", "parts": listed}


def settings(repository: str) -> dict:
    """The configuration of the book; links to the repository, Colab and Binder if it has a public address."""
    config = read_settings()
    if repository:
        config["repository"]["url"] = repository
        config["html"]["use_repository_button"] = True
        config["launch_buttons"] = {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
    else:
        del config["repository"]
    return config


def name_controls(page: str) -> str:
    """A page on which the theme's buttons have the names that readers see, for those who hear them."""
    page = page.replace("<summary><span", '<summary aria-label="Pages of this chapter"><span')
    page = page.replace('pst-js-only" title="Search" aria-label="Search"', 'pst-js-only" title="Search"')
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    return re.sub(r'(<i class="theme-switch [^>]*?) +title="[^"]*"', r"\1", page)


def remote_files(path: Path) -> list[str]:
    """Scripts, styles, fonts, images and frames that a page would load from another host."""
    found: list[str] = []

    class Finder(HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            loads = tag in ("script", "img", "iframe", "source", "video", "audio", "embed")
            loads = loads or (tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "search", "index"))
            url = given.get("src") or given.get("href") or ""
            if loads and re.match(r"(https?:)?//", url):
                found.append(url)

    Finder().feed(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
