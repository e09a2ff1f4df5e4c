"""Sphinx extension: the first time that a page uses a term of the glossary, the term links there and shows its definition on hover."""

from __future__ import annotations

import re

from docutils import nodes

GLOSSARY = "glossary"
# Generated pages, records and lists, where links would only distract.
WITHOUT = re.compile(r"glossary|notation|sheet|answers|log|contributing|bibliography|configuration|equations|api/.*|genindex|search")
# Terms that are everyday words too: linked by the pages themselves where the term is meant.
EVERYDAY = {"order", "gap", "round", "group", "strength", "response", "prompt", "strict", "published", "gaussian"}
SIGNS = {
    r"\alpha": "α",
    r"\beta": "β",
    r"\ell": "ℓ",
    r"\theta": "θ",
    r"\sigma": "σ",
    r"\pi": "π",
    r"\lambda": "λ",
    r"\sum": "Σ",
    r"\in": "∈",
}
SIGNS |= {
    r"\ge": "≥",
    r"\le": "≤",
    r"\mid": "|",
    r"\mathcal": "",
    r"\,": " ",
    r"\;": " ",
    r"\log": "log",
    r"\infty": "∞",
    r"\to": "→",
    r"\|": "‖",
    r"\*": "*",
}
KEPT = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title, nodes.raw, nodes.image)
SHORT = 220  # characters of a definition on hover


def setup(app):
    """Add the links when a page is complete but not yet written."""
    app.connect("doctree-resolved", add_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_links(app, document, name):
    """Link the first use of every term in the text of a page."""
    if WITHOUT.fullmatch(name):
        return
    left = definitions(app)
    for text in [text for text in document.findall(nodes.Text) if is_prose(text)]:
        expression = "|".join(sorted(map(re.escape, left), key=len, reverse=True))
        parts, start, source = [], 0, text.astext()
        for found in re.finditer(rf"(?<![\w-])({expression})(s?)(?![\w-])", source, flags=re.IGNORECASE) if left else ():
            if (term := found[1].casefold()) in left:  # not linked a moment ago, in this same text
                label, meaning = left.pop(term)
                uri = f"{app.builder.get_relative_uri(name, GLOSSARY)}#{label}"
                parts += [nodes.Text(source[start : found.start()]), link(found[0], uri, meaning)]
                start = found.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(source[start:])])


def is_prose(text):
    """Whether a text stands in a paragraph, and in nothing that must stay as it is."""
    above, node = [], text.parent
    while node is not None:
        above.append(node)
        node = node.parent
    is_output = any("cell" in node.get("classes", ()) for node in above if isinstance(node, nodes.Element))
    return any(isinstance(node, nodes.paragraph) for node in above) and not is_output and not any(isinstance(node, KEPT) for node in above)


def link(text, uri, meaning):
    """A reference to the glossary."""
    reference = nodes.reference("", "", nodes.Text(text), internal=True, refuri=uri, reftitle=meaning)
    reference["classes"].append("glossary-term")
    return reference


def plain(text):
    """A definition without LaTeX, and without the name of the code at its end."""
    text = re.sub(r"\\(?:mathrm|text|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:[A-Za-z]+|[,;|*])", lambda command: SIGNS.get(command[0], command[0]), text)
    text = re.sub(r"([_^])\{([^{}]*)\}", lambda found: found[1] + (found[2] if found[2].isalnum() else f"({found[2]})"), text)
    return " ".join(re.sub(r"(?: ?(?:dmpo_ref|toy)\.[\w.]+(?:\(\))?[.,;]?)+$", "", text).split())


def definitions(app):
    """Term in lower case → (its label in the glossary, the start of its definition)."""
    if not hasattr(app, "glossary_terms"):
        labels = {term: label for (kind, term), (_, label) in app.env.get_domain("std").objects.items() if kind == "term"}
        app.glossary_terms = {}
        for item in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
            meaning = plain(item.children[-1].astext())
            meaning = meaning if len(meaning) <= SHORT else f"{meaning[:SHORT].rsplit(' ', 1)[0]} …"
            for term in (part for entry in item.findall(nodes.term) for part in entry.astext().split(", ")):
                if entry_label := labels.get(term) or labels.get(item.next_node(nodes.term).astext()):
                    app.glossary_terms[term.casefold()] = (entry_label, meaning)
        app.glossary_terms = {term: found for term, found in app.glossary_terms.items() if term not in EVERYDAY}
    return dict(app.glossary_terms)
