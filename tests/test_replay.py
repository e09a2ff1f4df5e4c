"""The replay of a run: what rollouts.jsonl holds of it, the page, and files that hold something else. In a browser: tests/browser."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmpo_ref import load_config, train
from dmpo_ref.cli import main
from dmpo_ref.plots.replay import embed, group_of, read_groups, visible
from dmpo_ref.tasks.sudoku import is_solution

ANSWER = {"text": "7", "reward": 0.5, "weight": 1.0, "pieces": ["7"], "step": [0], "confidence": [0.25]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six rounds of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    size = ("train.rounds=6", "train.prompts_per_round=2", "train.num_rollouts=3", "train.log_prompts=2", "evaluation.num_items=1")
    train(load_config("toy_sudoku", f"output={folder}", *size))
    return folder


class Page(HTMLParser):
    """The elements of a page, the JSON in it, and its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.data, self.scripts, self.policy = [], {}, None, [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open = dict(attributes) | {"tag": tag}
        if self.open.get("http-equiv") == "Content-Security-Policy":
            self.policy = self.open["content"]

    def handle_data(self, data):
        if self.open.get("tag") == "script" and data.strip():
            if self.open.get("type") == "application/json":
                self.data = json.loads(data)
            else:
                self.scripts.append(data)
            self.open = {}


def test_a_run_logs_how_each_answer_came_about(run):
    lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    for line in lines:
        clues = [i for i in range(16) if (line["prompt"].replace("<|mdm_mask|>", "0"))[i] != "0"]
        for answer in line["answers"]:
            assert "".join(answer["pieces"]) == answer["text"]
            assert [i for i, step in enumerate(answer["step"]) if step < 0] == clues
            placed = sorted(step for step in answer["step"] if step >= 0)
            assert placed == list(range(16 - len(clues)))  # random order: one a pass
            assert all(0 < c <= 1 for c in answer["confidence"])


def test_the_command_writes_a_page_of_five_rounds_that_holds_what_was_logged(run, tmp_path, capsys):
    assert main(["replay", str(run), "-o", str(tmp_path / "new" / "page.html")]) == 0
    assert capsys.readouterr().out == f"30 answers to 10 prompts in {tmp_path / 'new' / 'page.html'}; open it in a browser\n"
    page = Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    titles = [group["title"] for group in page.data["groups"]]
    assert titles == [f"round {r}, prompt {p}" for r in (0, 1, 2, 4, 5) for p in (0, 1)]
    first = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    shown = page.data["groups"][0]["trajectories"]
    assert page.data["groups"][0]["prompt"] == first["prompt"].replace("<|mdm_mask|>", "·") != first["prompt"]
    assert [t["pieces"] for t in shown] == [a["pieces"] for a in first["answers"]] and all(t["board"] for t in shown)
    assert [t["step"] for t in shown] == [a["step"] for a in first["answers"]]
    right = [a["reward"] for a in first["answers"]]
    puzzle = first["prompt"].replace("<|mdm_mask|>", "0")
    assert right == [float(is_solution(puzzle, "".join(t["pieces"]))) for t in shown]
    assert [t["title"] for t in shown] == [
        f"answer {n}: reward {a['reward']:.2f}, weight {a['weight']:.2f}" for n, a in enumerate(first["answers"])
    ]


def test_one_answer_to_one_prompt_is_not_called_several(run, tmp_path, capsys):
    entry = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(entry | {"answers": entry["answers"][:1]}) + "\n")
    assert main(["replay", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith("1 answer to 1 prompt in ")


def test_one_script_may_run_on_the_page_and_nothing_is_loaded(run, tmp_path):
    assert main(["replay", str(run), "-o", str(tmp_path / "page.html"), "--round", "5", "--round", "1"]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [group["title"] for group in page.data["groups"]] == [f"round {r}, prompt {p}" for r in (1, 5) for p in (0, 1)]
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert not {"link", "img", "iframe"} & set(page.tags)


def test_texts_cannot_leave_the_script_that_holds_them():
    hostile = ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028", '"\\', "\x1b[2J", "‮"]
    embedded = embed({"x": hostile})
    assert "<" not in embedded and "\u2028" not in embedded
    assert json.loads(embedded) == {"x": hostile}
    group = group_of("t", "\x1b[31mprompt\n", [{"pieces": hostile, "step": [0] * 7, "confidence": [1.0] * 7}], ["a"])
    assert group["prompt"] == "␛[31mprompt\n"
    assert group["trajectories"][0]["pieces"][3:] == ["�", '"\\', "␛[2J", "�"]


def test_what_is_visible_stays_and_what_is_not_gets_a_sign():
    assert visible("añ 4\n漢😀") == "añ 4\n漢😀"
    assert visible("\0\t\x7f\x9b\u202e\ud800") == "␀␉����"


def test_a_board_is_sixteen_single_digits():
    def board(pieces):
        return group_of("", "", [{"pieces": pieces, "step": [], "confidence": []}], [""])["trajectories"][0]["board"]

    assert board(list("1234341221434321"))
    assert not board(list("123434122143432x")) and not board(["12"] * 16) and not board(list("123434122143432"))


BROKEN = {  # a line of rollouts.jsonl → what is wrong with it
    "no answers": ({"answers": []}, "a prompt and its answers are needed"),
    "answers no list": ({"answers": {"a": 1}}, "a prompt and its answers are needed"),
    "prompt a number": ({"prompt": 7}, "a prompt and its answers are needed"),
    "answer a text": ({"answers": ["7"]}, "an answer needs its text, reward and weight"),
    "reward a text": ({"answers": [ANSWER | {"reward": "1"}]}, "an answer needs its text, reward and weight"),
    "reward a truth value": ({"answers": [ANSWER | {"reward": True}]}, "an answer needs its text, reward and weight"),
    "steps no list": ({"answers": [ANSWER | {"step": 3}]}, "pieces, step and confidence must be lists"),
    "lengths": ({"answers": [ANSWER | {"step": [0, 1]}]}, "pieces, step and confidence must be of one length"),
    "nothing": ({"answers": [ANSWER | {"step": [], "pieces": [], "confidence": []}]}, "must be of one length"),
    "a piece that is no text": ({"answers": [ANSWER | {"pieces": [7]}]}, "pieces must be texts"),
    "a step too large": ({"answers": [ANSWER | {"step": [10**18]}]}, "step must be whole numbers from -1 to 99999"),
    "a step that is no number": ({"answers": [ANSWER | {"step": [1.5]}]}, "step must be whole numbers"),
    "confidence above 1": ({"answers": [ANSWER | {"confidence": [1.5]}]}, "confidence must be numbers from 0 to 1"),
    "confidence NaN": ({"answers": [ANSWER | {"confidence": [float("nan")]}]}, "confidence must be numbers from 0 to 1"),
}


def refused(arguments, capsys) -> str:
    assert main(["replay", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", BROKEN)
def test_a_line_that_cannot_be_replayed_is_named(tmp_path, capsys, name):
    change, problem = BROKEN[name]
    good = {"round": 0, "prompt": "q", "answers": [ANSWER]}
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (good, good | {"round": 1} | change)))
    message = refused([tmp_path, "-o", tmp_path / "page.html"], capsys)
    assert f"{tmp_path / 'rollouts.jsonl'}, line 2: " in message and problem in message
    assert not (tmp_path / "page.html").exists()
    assert len(read_groups(tmp_path, [0])) == 1  # the others can be replayed by name


def test_of_a_run_begun_by_an_earlier_version_the_later_rounds_are_replayed(tmp_path):
    old = {key: ANSWER[key] for key in ("text", "reward", "weight")}
    lines = [{"round": r, "prompt": "q", "answers": [old if r < 3 else ANSWER]} for r in range(6)]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [group["title"] for group in read_groups(tmp_path, [])] == [f"round {r}, prompt 0" for r in (3, 4, 5)]
    with pytest.raises(ValueError, match="line 2: an answer has no steps"):
        read_groups(tmp_path, [1])


def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    page = ["-o", tmp_path / "page.html"]
    assert "rollouts.jsonl is not there: give the folder of a run" in refused([tmp_path, *page], capsys)
    assert "nowhere" in refused([tmp_path / "nowhere", *page], capsys)
    (tmp_path / "rollouts.jsonl").write_text("")
    assert "holds no answers" in refused([tmp_path, *page], capsys)
    (tmp_path / "rollouts.jsonl").write_text("{broken\n")
    assert "rollouts.jsonl, line 1: not an entry of a run" in refused([tmp_path, *page], capsys)
    (tmp_path / "rollouts.jsonl").write_text(json.dumps({"round": 4, "prompt": "q", "answers": [ANSWER]}) + "\n")
    assert "has no round 3; it has rounds 4 to 4" in refused([tmp_path, *page, "--round", "3"], capsys)
    (tmp_path / "rollouts.jsonl").write_text(json.dumps({"round": 4, "prompt": "q", "answers": [ANSWER | {"reward": 10**400}]}) + "\n")
    assert "line 1: an answer needs its text, reward and weight" in refused([tmp_path, *page], capsys)
    (tmp_path / "rollouts.jsonl").write_text(json.dumps({"round": 4, "prompt": "q", "answers": [ANSWER]}) + "\n")
    assert "must end in .html" in refused([tmp_path, "-o", tmp_path / "page.pdf"], capsys)
    (tmp_path / "page.html").mkdir()
    assert "page.html" in refused([tmp_path, *page], capsys)
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(tmp_path)])
    assert capsys.readouterr().err == "dmpo: the following arguments are required: -o/--output; see dmpo replay --help\n"
    assert not list(Path(tmp_path).glob("*.partial"))


def test_sample_draws_all_its_answers_as_a_page(tmp_path, capsys):
    page = tmp_path / "answers.html"
    assert main(["sample", "toy_sudoku", "--num-samples", "3", "--draw", str(page)]) == 0
    (group,) = Page(page.read_text(encoding="utf-8")).data["groups"]
    assert [t["title"] for t in group["trajectories"]] == ["answer 0", "answer 1", "answer 2"]
    _, *answers = capsys.readouterr().out.split("\nanswer ")
    boards = ["".join(c for c in answer.partition("\n")[2] if c.isdigit()) for answer in answers]
    assert ["".join(t["pieces"]) for t in group["trajectories"]] == boards
