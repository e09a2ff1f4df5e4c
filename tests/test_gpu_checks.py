"""The script for a machine with a GPU: all of its measurements are made, also after one that failed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $1" in
    "dmpo bench")
        [ "$BENCH" = 3 ] && exit 2  # an option that is wrong: nothing is written
        for word in "$@"; do [ "$before" = --json ] && echo {} > "$word"; before=$word; done
        exit "$BENCH" ;;
    "python -m") [ "$2" = pytest ] && exit "$PYTEST"; exit 0 ;;
esac
"""


def run(tmp_path, bench: int, tests: int):
    """The script with commands that only note how they were called and end with these codes."""
    for name in ("dmpo", "python"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "BENCH": str(bench), "PYTEST": str(tests), "GPU": "h200"}
    command = ["bash", str(Path("toy/gpu_checks.sh").resolve()), str(tmp_path / "out")]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, cwd=tmp_path)
    return done, calls.read_text().splitlines(), tmp_path / "out"


@pytest.mark.parametrize(("bench", "tests", "code"), [(0, 0, 0), (2, 0, 0), (2, 1, 1)])
def test_a_failed_measurement_does_not_end_the_script(tmp_path, bench, tests, code):
    done, lines, folder = run(tmp_path, bench, tests)
    assert done.returncode == code, done.stderr
    assert sum(line.startswith("dmpo plan llada_sudoku --gpu h200 ") for line in lines) == 1
    measured = [line for line in lines if line.startswith("dmpo bench ")]
    for compile in ("none", "default"):
        for lean in ("false", "true"):
            both = [line for line in measured if f"model.compile={compile} model.lora_lean={lean}" in line]
            assert [line.split(" model.")[0] for line in both] == ["dmpo bench loss elbo samplers", "dmpo bench round"]
    assert lines[-1].startswith("python -m pytest")
    assert ("some measurements failed" in done.stdout) == (bench != 0)
    assert len(list(folder.glob("*.txt"))) == 9


def test_measurements_that_all_fail_are_an_error(tmp_path):
    done, calls, _ = run(tmp_path, 3, 0)
    assert done.returncode == 1 and "nothing was measured" in done.stderr and not any(" pytest" in line for line in calls)
