"""The mutation tool: a mutant stands in the place of its module in a process and in those that it starts, whatever is compiled."""

import os
import subprocess
import sys

from tests.mutation import MUTATED, changes, make_mutants


def test_a_mutant_is_read_in_a_process_and_in_its_own_processes(tmp_path):
    module, mutant = tmp_path / "some_module.py", tmp_path / "mutant" / "some_module.py"
    mutant.parent.mkdir()
    module.write_text("VALUE = 1\n")
    mutant.write_text("VALUE = 2\n")
    show = "import some_module; print(some_module.VALUE, flush=True)"
    twice = f"import subprocess, sys; {show}; subprocess.run([sys.executable, '-c', {show!r}], check=True)"
    places = os.environ | {"PYTHONPATH": str(tmp_path)}
    told = [sys.executable, "-c", twice]
    assert subprocess.run(told, env=places, capture_output=True, text=True, check=True).stdout.split() == ["1", "1"]  # and is compiled
    places |= {"PYTHONPATH": os.pathsep.join([str(MUTATED), str(tmp_path)]), "MUTATED": str(module), "MUTANT": str(mutant)}
    assert subprocess.run(told, env=places, capture_output=True, text=True, check=True).stdout.split() == ["2", "2"]
    assert subprocess.run(told, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True).stdout.split() == ["1", "1"]


def test_the_mutants_of_a_line_by_hand():
    found = dict(make_mutants("x = a + 1 if b < 2 else not c", changes))
    assert sorted(found.values()) == sorted(
        ["x = a - 1 if b < 2 else not c", "x = a + 2 if b < 2 else not c", "x = a + 1 if b <= 2 else not c",
         "x = a + 1 if b < 3 else not c", "x = a + 1 if b < 2 else not not c"]
    )  # fmt: skip
