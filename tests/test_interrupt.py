"""Signals: the first lets the round end in a checkpoint, the second always ends the process; the same for several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmpo_ref.runtime.interrupt import STOPS, StopSignal

RUN = ["-m", "dmpo_ref", "train", "toy_sudoku", "device=cpu", "threads=1", "train.rounds=5000", "evaluation.num_items=2",
       "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=5000"]  # fmt: skip
# Waits for a mutex that it holds itself, in C: as for a process that has frozen, no Python runs and signals wake nobody.
FROZEN = """
import ctypes
from dmpo_ref.runtime.interrupt import StopSignal
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
with StopSignal():
    print("waiting", flush=True)
    libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)
"""


@pytest.fixture(autouse=True)
def hangup_is_not_ignored():
    """As in a terminal; under nohup this process, and so those it starts, would ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPS)
def test_the_first_signal_is_a_request_and_the_handlers_come_back(number, capsys):
    before = {other: signal.getsignal(other) for other in STOPS}
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert {other: signal.getsignal(other) for other in STOPS} == before  # a second one stops at once
    assert "once more to stop at once" in capsys.readouterr().err
    with StopSignal() as stop:
        pass
    assert {other: signal.getsignal(other) for other in STOPS} == before and not stop.requested
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_that_waits_in_a_library(number):
    process = subprocess.Popen([sys.executable, "-c", FROZEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1)  # it is on its way into C
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None, "the first one waits for the round"
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert process.stderr.read() == "dmpo: stopped at once, while waiting for something that did not come; the newest checkpoint stands\n"


def wait_for(file: Path, process: subprocess.Popen) -> None:
    for _ in range(600):
        if file.is_file() and file.stat().st_size:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    pytest.fail(f"no {file}")


def test_a_closed_terminal_saves_as_sigterm_does(tmp_path):
    process = subprocess.Popen([sys.executable, *RUN, f"output={tmp_path / 'run'}"], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 130
    assert "saved in" in process.stderr.read()
    rounds = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (tmp_path / "run" / f"checkpoint-{rounds:06d}").is_dir()


@pytest.fixture
def pair(tmp_path):
    """Two processes of one run, started as a launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command, processes = [sys.executable, *RUN, f"output={tmp_path / 'run'}"], []
    for rank in "01":
        environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True))
    wait_for(tmp_path / "run" / "metrics.jsonl", processes[0])
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_when_one_process_dies_the_other_ends_in_one_line(pair):
    pair[1].kill()
    assert pair[0].wait(timeout=60) == 2
    (error,) = [line for line in pair[0].stderr.read().splitlines() if not line.startswith("dmpo: warning")]
    assert error.startswith("dmpo: another process of this run has ended") and "--resume" in error


def test_two_signals_end_a_process_whose_peer_has_frozen(pair):
    pair[1].send_signal(signal.SIGSTOP)
    time.sleep(2)
    pair[0].send_signal(signal.SIGTERM)
    time.sleep(1)
    pair[0].send_signal(signal.SIGTERM)
    assert pair[0].wait(timeout=20) in (128 + signal.SIGTERM, -signal.SIGTERM)


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.6, 2.4])
def test_ctrl_c_during_imports_is_one_line(seconds, tmp_path):
    process = subprocess.Popen(
        [sys.executable, *RUN, f"output={tmp_path / 'run'}"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        code = process.wait(timeout=60)
    finally:
        process.kill()
    error = process.stderr.read()
    assert code == 130 and error.count("dmpo: ") == 1 and "Traceback" not in error, json.dumps(error[-500:])
