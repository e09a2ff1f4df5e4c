"""Kills, full disks and damaged checkpoints (`tests.kills`), a few in the ordinary tests; `make test-kill` runs twenty of each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def disturb(name: str, way: str, count: int) -> int:
    """How many times a run was disturbed; each must have ended with the numbers of an undisturbed one."""
    command = [sys.executable, "-m", "tests.kills", name, way, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    print(name, way, done.stdout)
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_killed_in_the_midst_of_writing_it_goes_on_to_the_same_numbers(name):
    assert disturb(name, "events", 4) >= 4


@pytest.mark.long
@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("way", ["moments", "events"])
def test_killed_twenty_times_it_goes_on_to_the_same_numbers(name, way):
    assert disturb(name, way, 20) >= 20


@pytest.mark.long
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_full_disk_at_twenty_sizes_costs_nothing_but_time(name):
    if not (failed := disturb(name, "disk", 20)):
        pytest.skip("no file system may be mounted here")
    assert failed >= 10


@pytest.mark.long
def test_a_damaged_newest_checkpoint_leads_to_the_one_before_it_and_the_same_numbers():
    assert disturb("train", "damage", 20) == 20
