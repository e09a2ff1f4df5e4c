"""A page that replays how answers were generated, forward pass by forward pass, in any browser: one file, without a server or network.

The data of a page, JSON:

    {"title": …, "groups": [                       one group is shown at a time: the answers to one prompt
      {"title": …, "prompt": …, "trajectories": [
        {"title": …, "board": …,                   board: the 16 pieces are the cells of a 4x4 Sudoku; else they are a text
         "pieces": […], "step": […], "confidence": […]}]}]}

The last three have one entry for each token, see `tasks.encoding.trajectory`; a line of rollouts.jsonl has them for each answer. A token
that was taken back (WINO) is shown where it was placed for good. Texts come from a model: they are always shown as plain text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from dmpo_ref.runtime.files import read_entries, write_atomically

ALL_ROUNDS = 2**62
MOST_PASSES = 100_000
MASK = "<|mdm_mask|>"  # of LLaDA; it occurs in prompts that are templates
NO_STEPS = "an answer has no steps: it was written before version 0.6.0, or by another program; train again to replay it"
HERE = Path(__file__).parent
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1em auto; max-width: 75em; padding: 0 0.8em; color: #111; background: #fff; }}
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<div class="dmpo-figure" data-figure="replay"><script type="application/json">{data}</script></div>
</main>
<script>{script}</script>
</body>
</html>
"""


def save_replay(path: Path, data: dict[str, Any]) -> None:
    """Write the page of `data`; its name ends in .html."""
    if path.suffix != ".html":
        raise ValueError(f"{path}: a replay is a page, so its name must end in .html")
    script, style = ((HERE / f"replay.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run on the page
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, PAGE.format(title=html.escape(data["title"]), style=style, script=script, digest=digest, data=embed(data)))


def embed(data: Any) -> str:
    """JSON that can stand inside a <script>: nothing in it ends the element or begins a comment."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def group_of(title: str, prompt: str, answers: list[dict[str, Any]], titles: list[str]) -> dict[str, Any]:
    """The answers to one prompt, each with `pieces`, `step`, `confidence`; control characters become visible."""
    trajectories = []
    for answer, name in zip(answers, titles, strict=True):
        pieces = [visible(piece) for piece in answer["pieces"]]
        is_board = len(pieces) == 16 and all(piece in tuple("01234") for piece in pieces)
        trajectories.append({"title": name, "board": is_board, "pieces": pieces, **{key: answer[key] for key in ("step", "confidence")}})
    return {"title": title, "prompt": visible(prompt.replace(MASK, "·")), "trajectories": trajectories}


def visible(text: str) -> str:
    """Control characters but line breaks as their Unicode pictures, and marks that change the writing direction as �."""
    shown = (chr(0x2400 + ord(c)) if ord(c) < 0x20 and c != "\n" else c if c.isprintable() or c in "\n " else "�" for c in text)
    return "".join(shown)


def read_groups(run: Path, rounds: list[int]) -> list[dict[str, Any]]:
    """The prompts of some rounds with all their answers, from rollouts.jsonl.

    Args:
        run: the folder of a run, or its rollouts.jsonl.
        rounds: from 0; none: the first, the last and up to three between.

    Raises:
        FileNotFoundError, ValueError: no such file or round, or a line that is invalid.
    """
    path = run / "rollouts.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the folder of a run that logs its answers (train.log_prompts above 0)")
    entries = read_entries(path, before_round=ALL_ROUNDS)
    known = sorted({entry["round"] for entry in entries})
    if not known:
        raise ValueError(f"{path} holds no answers; a run writes them after each round if train.log_prompts is above 0")
    # A run that was begun before version 0.6.0 and resumed has trajectories in its later rounds alone.
    whole = sorted({entry["round"] for entry in entries if problem_of(entry) != NO_STEPS}) or known
    chosen = rounds or sorted({whole[round(k * (len(whole) - 1) / 4)] for k in range(5)})
    if missing := [number for number in chosen if number not in known]:
        raise ValueError(f"{path} has no round {missing[0]}; it has rounds {known[0]} to {known[-1]}")
    groups: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, start=1):
        if entry["round"] in chosen:
            if problem := problem_of(entry):
                raise ValueError(f"{path}, line {number}: {problem}")
            titles = [f"answer {n}: reward {a['reward']:.2f}, weight {a['weight']:.2f}" for n, a in enumerate(entry["answers"])]
            same = sum(group["title"].startswith(f"round {entry['round']},") for group in groups)
            groups.append(group_of(f"round {entry['round']}, prompt {same}", entry["prompt"], entry["answers"], titles))
    return groups


def problem_of(entry: dict[str, Any]) -> str | None:
    """What is wrong with a line of rollouts.jsonl, in words; None if it can be replayed."""
    answers = entry.get("answers")
    if not isinstance(entry.get("prompt"), str) or not isinstance(answers, list) or not answers:
        return "a prompt and its answers are needed"
    for answer in answers:
        if not isinstance(answer, dict) or not all(is_number(answer.get(key)) for key in ("reward", "weight")):
            return "an answer needs its text, reward and weight"
        if "step" not in answer:
            return NO_STEPS
        pieces, step, confidence = (answer.get(key) for key in ("pieces", "step", "confidence"))
        if not (isinstance(pieces, list) and isinstance(step, list) and isinstance(confidence, list)):
            return "pieces, step and confidence must be lists"
        if not len(pieces) == len(step) == len(confidence) > 0:
            return "pieces, step and confidence must be of one length"
        if not all(isinstance(piece, str) for piece in pieces):
            return "pieces must be texts"
        if not all(type(count) is int and -1 <= count < MOST_PASSES for count in step):
            return f"step must be whole numbers from -1 to {MOST_PASSES - 1}"
        if not all(is_number(c) and 0 <= c <= 1 for c in confidence):
            return "confidence must be numbers from 0 to 1"
    return None


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold, and not a bool."""
    return isinstance(value, float) or type(value) is int and abs(value) < 1e300
