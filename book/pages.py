"""Pages that are made from the code: the map from equations to functions, the API, the options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from dmpo_ref.config import describe_options

PACKAGES = ("dmpo_ref", "toy")
EQUATIONS = "Equation to code"
MAP = "Map"
NO_PAGE = ("__main__",)

SECTIONS = {
    "": "The run",
    "model": "Model: the policy",
    "task": "Task: prompts and rewards",
    "sampler": "Sampler of the rollouts",
    "weight": "Weights: from rewards to w",
    "loss": "Loss: the objective",
    "optimizer": "Optimiser",
    "train": "The loop",
    "evaluation": "Evaluation",
}


def section(readme: str, title: str) -> str:
    """A section of the README as a page of its own.

    Raises:
        ValueError: the README has no such section.
    """
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no section '## {title}', from which a page of the book is made")
    return f"# {title}\n{found[1]}"


def equations_page(readme: str) -> str:
    """The README's table with each function linked to its documentation."""
    text = section(readme, EQUATIONS)
    text = re.sub(r"`((?:dmpo_ref\.|(?=toy\.))([\w.]+))`", r"{py:obj}`\2 <\1>`", text)
    where = "Functions are those of `dmpo_ref` unless they begin with `toy`."
    return f"{text}\n{where} The derivations are in [the method on one page](book/method.md) and in the notebooks.\n"


def modules(root: Path) -> dict[str, str]:
    """Every module: its dotted name → its path in the repository."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root)
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            if relative.stem not in NO_PAGE:
                found[name] = str(relative)
    return found


def reading_order(root: Path, readme: str) -> list[str]:
    """Modules and sub-packages as the README's map names them; inside a sub-package by name; what it does not name comes last."""
    by_path = {path: name for name, path in modules(root).items()}
    named = [by_path[link] for link in re.findall(r"\]\(([^)#]+)\)", section(readme, MAP)) if link in by_path]
    places = {inside(name): i for i, name in reversed(list(enumerate(named)))}

    def place(name: str) -> tuple[int, int, str]:
        return (PACKAGES.index(name.split(".")[0]), -1 if name in PACKAGES else places.get(inside(name), len(named)), name)

    return sorted(by_path.values(), key=place)


def inside(name: str) -> str:
    """The module or sub-package that lies directly in its package: dmpo_ref.models of dmpo_ref.models.llada."""
    return ".".join(name.split(".")[:2])


def api_pages(root: Path, readme: str) -> dict[str, str]:
    """An overview and a page for each module, staged path → text."""
    found = modules(root)
    names = reading_order(root, readme)
    rows = [f"| [{name}]({found[name]}) | {summary(root / found[name])} |" for name in names]
    overview = [
        "# Modules",
        "",
        "In reading order. A page holds the public classes and functions of a module, made from its docstrings; *[source]* shows the code.",
        "The package itself exports the names that notebooks and how-to pages use most: `from dmpo_ref import train`; "
        f"[its page]({found['dmpo_ref']}) says which of them are stable.",
        "",
        *("| module | what it holds |", "| --- | --- |"),
        *rows,
    ]
    return {"api/index.md": "\n".join(overview) + "\n"} | {f"api/{name}.md": api_page(name) for name in names}


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, fit for a table."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    sentence = re.split(r"(?<=[.:])\s", text, maxsplit=1)[0].rstrip(".:")
    return re.sub(r"([|*_<])", r"\\\1", sentence)


def api_page(name: str) -> str:
    """One module by autodoc."""
    members = "" if name in PACKAGES else "   :members:\n   :ignore-module-all:\n"
    return f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{members}```\n"


def configuration_page() -> str:
    """Every option of `Config`, section by section."""
    lines = [
        "# Options",
        "",
        "Every option of a run, made from [the dataclasses](api/dmpo_ref.config.md). A YAML file sets them by section, "
        "the command line as `section.name=value`; `dmpo train --help` prints the same list. "
        "Symbols are those of arXiv:2510.08233; the [method](method.md) explains them.",
    ]
    groups: dict[str, list[str]] = {}
    for key, option in describe_options().items():
        kind, default, help, symbol = option.kind, option.default, option.help, option.symbol
        head = key.partition(".")[0] if "." in key else ""
        shown = {"???": "required", "None": "null", "True": "true", "False": "false"}.get(str(default), default)
        cells = [f"`{key}`", f"`{shown}`", symbol.replace("*", r"\*"), describe(help), f"`{kind}`"]
        groups.setdefault(head, []).append("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")
    for head, rows in groups.items():
        lines += [
            "",
            f"## {SECTIONS[head]}",
            "",
            "| option | default | symbol | what it is | type |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    return "\n".join(lines) + "\n"


def describe(help: str) -> str:
    """Help text with its code spans kept and everything else free of markup."""
    parts = re.split(r"(`[^`]+`)", help)
    return "".join(part if i % 2 else re.sub(r"([*_<\[])", r"\\\1", part) for i, part in enumerate(parts))
