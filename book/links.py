"""Links of README, LOG, notebooks and pages, as they must read in the book."""

from __future__ import annotations

import os
import re
from pathlib import Path

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
PATH = re.compile(r"(?=.*[./]|LICENSE)[\w./~-]+(#[\w-]+)?")  # not E[x](y) in a formula


class Links:
    """Where each file of the repository is to be found in the book.

    Attributes:
        pages: path in the repository → staged path, for what is a page of the book.
        files: staged path → file, for what is linked to but is no page: without a public repository the book carries a copy.
        missing: links that lead nowhere, in words.
    """

    def __init__(self, root: Path, repository: str, branch: str):
        self.root, self.repository, self.branch = root.resolve(), repository, branch
        self.pages: dict[str, str] = {}
        self.files: dict[str, Path] = {}
        self.missing: list[str] = []

    def relink(self, text: str, source: Path, staged: str) -> str:
        """The text of `source` (relative links start from there) with links that hold in the page `staged`."""
        parts = re.split(r"(^```.*?^```[ \t]*$)", text, flags=re.MULTILINE | re.DOTALL)  # code is left alone
        return "".join(part if i % 2 else LINK.sub(lambda found: self.replace(found, source, staged), part) for i, part in enumerate(parts))

    def replace(self, found: re.Match, source: Path, staged: str) -> str:
        mark, label, link = found.groups()
        if not PATH.fullmatch(link):
            return found[0]
        path, _, anchor = link.partition("#")
        target = (source.parent / path).resolve()
        if not target.exists() or not target.is_relative_to(self.root):
            self.missing.append(f"{source.relative_to(self.root)} links to {link}, which does not exist")
            return label
        name = str(target.relative_to(self.root))
        page = self.pages.get(name) or self.pages.get(f"{name}/__init__.py")
        if page is None and target.is_dir():
            return label
        if page is None and mark:
            page = name.removeprefix("book/")
            self.files[page] = target
        if page is None and self.repository:
            return f"[{label}]({self.repository}/blob/{self.branch}/{name})"
        if page is None:
            page = f"files/{name}"
            self.files[page] = target
            if target.suffix in (".md", ".ipynb"):  # a plain link to these would have to be a page
                return f"{{download}}`{label.replace('`', '')} <{os.path.relpath(page, Path(staged).parent)}>`"
        return f"{mark}[{label}]({os.path.relpath(page, Path(staged).parent)}{'#' + anchor if anchor and name.endswith('.md') else ''})"


def write(target: Path, texts: dict[str, str], files: dict[str, Path]) -> None:
    """Write a staged folder: what has not changed is left alone, so that the next build is quick, and what is left over goes."""
    wanted = {name: text.encode() for name, text in texts.items()} | {name: path.read_bytes() for name, path in files.items()}
    for name, content in wanted.items():
        path = target / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if path.is_file() and name.parts[0] != "_build" and name.as_posix() not in wanted:
            path.unlink()
