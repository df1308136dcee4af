"""Commands and workers that are interrupted just while they start: nothing is lost, nothing is left running."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from residualformer.parallel import processes_without_interrupts
from residualformer.workflow.process import run_command

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def interruptible():
    """As in a terminal, where the shell that started the tests may ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_comes_after_the_start_and_does_not_reach_what_was_started():
    told = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    with pytest.raises(KeyboardInterrupt), processes_without_interrupts():
        process = subprocess.Popen([sys.executable, "-S", "-c", told], stdout=subprocess.PIPE, text=True)
        signal.raise_signal(signal.SIGINT)
        after = process.communicate()[0]
    assert after.strip() == "True" and process.returncode == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_comes_while_a_command_starts_ends_it(monkeypatch, number, status):
    started = []

    def popen(*arguments, **options):
        started.append(start(*arguments, **options))
        signal.raise_signal(number)
        return started[0]

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert run_command(SLEEP, {}) == status
    assert started[0].returncode == -signal.SIGTERM
