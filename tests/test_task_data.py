"""Reading of data files and of hub data sets, without a network."""

import json
import sys

import datasets
import pytest

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.data import read_rows
from dmpo_ref.tasks.gsm8k import GSM8K, Problem

ROWS = [{"question": "Say “two”, or\n2?", "answer": "#### 2"}, {"question": "Three?", "answer": "#### 3"}]
COLUMNS = ("question", "answer")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'question,answer\n"Say “two”, or\n2?",#### 2\nThree?,#### 3\n'),
        ("marked.csv", '\ufeffquestion,answer\n"Say “two”, or\n2?",#### 2\nThree?,#### 3\n'),
        ("rows.json", json.dumps(ROWS)),
        ("rows.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"),
    ],
)
def test_a_file_is_read_by_its_ending(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_rows(str(tmp_path / name), COLUMNS) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"question\nThree?\n", r"a\.csv, row 1: the columns question, answer are needed; got .*Three"),
        ("a.csv", b"question,answer\nThree?\n", r"a\.csv, row 1: the columns question, answer are needed"),
        ("a.csv", b"question,answer\n", r"a\.csv holds no row"),
        ("a.csv", b"", r"a\.csv holds no row"),
        ("a.csv", b"question,answer\n\xff,1\n", r"a\.csv cannot be read as csv: .*can't decode"),
        ("a.json", b'[{"question": "Three?", "ans', r"a\.json cannot be read as json: Unterminated string"),
        ("a.json", b"", r"a\.json cannot be read as json"),
        ("a.json", b"[]", r"a\.json holds no row"),
        ("a.json", b'{"question": "Three?"}', r"a\.json holds no row: a list of at least one is needed"),
        ("a.json", b"7", r"a\.json holds no row: a list"),
        ("a.json", b"[7]", r"a\.json, row 1: the columns question, answer are needed; got 7"),
        ("a.json", b'[{"question": "Three?", "answer": null}]', r"a\.json, row 1: the columns"),
        ("a.json", b"[" * 100_000, r"a\.json cannot be read as json"),
        (
            "a.jsonl",
            b'{"question": "q", "answer": "a"}\n\n{"question": "Th',
            r"a\.jsonl cannot be read as jsonl: line 3: Unterminated string",
        ),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl cannot be read as jsonl"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no row"),
        ("a.txt", b"question", r"a\.txt: the ending must be \.csv, \.json or \.jsonl"),
        ("a", b"question", r"a: the ending must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_that_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(str(tmp_path / name), COLUMNS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("source", ["nowhere.csv", "nowhere", "", "openai/gsm8k", "a:b:c:d/e"])
def test_what_is_neither_a_file_nor_a_data_set_is_named(source):
    with pytest.raises(FileNotFoundError, match="give a .csv, .json or .jsonl file, or a hub data set as name:split") as caught:
        read_rows(source, COLUMNS)
    assert f"no data file {source}" in str(caught.value)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A data set as the hub holds it: Parquet files under `data/`, a split in each name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "gsm8k"
    for split, rows in (("train", ROWS), ("test", ROWS[1:])):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_a_folder_in_the_layout_of_the_hub_is_read_by_its_splits(hub_folder):
    assert read_rows(f"{hub_folder}:train", COLUMNS) == ROWS
    assert read_rows(f"{hub_folder}:test", COLUMNS) == ROWS[1:]
    assert read_rows(f"{hub_folder}:default:test", COLUMNS) == ROWS[1:]
    task = GSM8K(TaskConfig(name="gsm8k", train="-", test="-"))
    assert task.load(f"{hub_folder}:test") == [Problem("Three?", "3")]


def test_a_split_or_a_column_that_a_data_set_does_not_have_is_one_line(hub_folder):
    with pytest.raises(ValueError, match="cannot load the data set .*:dev: .*; a local file of the same columns works too") as caught:
        read_rows(f"{hub_folder}:dev", COLUMNS)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="row 1: the columns problem are needed"):
        read_rows(f"{hub_folder}:test", ("problem",))


@pytest.mark.parametrize("source", ["nobody/nothing:train", "nobody/nothing:main:train"])
def test_a_data_set_that_cannot_be_reached_is_one_line(source):
    with pytest.raises(ValueError, match=f"cannot load the data set {source}: .*; a local file of the same columns works too") as caught:
        read_rows(source, COLUMNS)
    assert "\n" not in str(caught.value)


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"nobody/nothing:train .* pip install 'dmpo-ref\[benchmarks\]'"):
        read_rows("nobody/nothing:train", COLUMNS)
