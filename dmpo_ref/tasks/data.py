"""Rows of data files: CSV, JSON, JSON lines, or a data set of the Hugging Face hub."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

HALF = re.compile("[\ud800-\udfff]")  # JSON can hold half of a pair of surrogates, UTF-8 cannot


def read_rows(source: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a local CSV, JSON or JSON-lines file, or of a hub data set given as `name:split` or `name:config:split`.

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: a file that cannot be read, holds no row, or lacks a column; with the line number if known.
    """
    path = Path(source)
    if path.is_file():
        rows = read_data_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){1,2}", source) or (":" in source and Path(source.split(":")[0]).is_dir()):
        rows = read_hub(source)
    else:
        raise FileNotFoundError(
            f"no data file {source}: give a .csv, .json or .jsonl file, or a hub data set as name:split; in a config, ./ means beside it"
        )
    if not rows or not isinstance(rows, list):
        raise ValueError(f"{source} holds no row: a list of at least one is needed")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or any(row.get(column) is None for column in columns):
            raise ValueError(f"{source}, row {number}: the columns {', '.join(columns)} are needed; got {str(row)[:80]}")
        if HALF.search("".join(map(str, row.values()))):
            raise ValueError(f"{source}, row {number}: half a character, such as \\ud800, is no text; got {str(row)[:80]!r}")
    return rows


def read_data_file(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV, JSON-lines or JSON file, by its ending."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel's CSV files start with a byte order mark
            if path.suffix == ".csv":
                return list(csv.DictReader(file, strict=True))  # else a quote that is not closed swallows the rows after it
            if path.suffix == ".jsonl":
                return [read_line(line, number) for number, line in enumerate(file, start=1) if line.strip()]
            if path.suffix == ".json":
                return json.load(file)
    except (ValueError, csv.Error, RecursionError) as error:
        remedy = "; is a quote not closed?" if isinstance(error, csv.Error) else ""
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}{remedy}") from error
    raise ValueError(f"{path}: the ending must be .csv, .json or .jsonl")


def read_line(line: str, number: int) -> Any:
    """One line of JSON; its number is in the error."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def read_hub(source: str) -> list[dict[str, Any]]:
    """Rows of a data set, by the `datasets` library: from the hub, or from a local folder in its layout."""
    try:
        from datasets import load_dataset  # optional, and seconds of import
    except ImportError as error:
        raise ValueError(f"{source} is a hub data set, which needs the package datasets: pip install 'dmpo-ref[benchmarks]'") from error
    name, *config, split = source.split(":")
    try:
        return [dict(row) for row in load_dataset(name, *config, split=split)]
    except Exception as error:  # `datasets` raises many kinds; all mean that there is no data set
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot load the data set {source}: {reason}; a local file of the same columns works too") from error
