import os
import signal
import subprocess
import sys

import pytest

from salt_jax.training.stop_signals import INTERRUPTED, SIGNALS, STOPPED, StopSignals


def send(signum=signal.SIGTERM):
    os.kill(os.getpid(), signum)


def test_a_signal_is_noted_instead_of_ending_the_process():
    with StopSignals() as signals:
        signals.begin_steps()
        assert not signals.requested
        send()
        assert signals.requested and signals.exit_code == STOPPED == 75


def test_the_signals_of_another_time_are_forgotten():
    for requested in (False, False):
        with StopSignals() as signals:
            signals.begin_steps()
            assert signals.requested == requested
            send()


def test_what_took_the_signal_before_takes_it_after():
    taken = []
    before = signal.signal(signal.SIGTERM, lambda *_: taken.append("outer"))
    try:
        with pytest.raises(InterruptedError), StopSignals():
            raise InterruptedError
        send()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == ["outer"]


PROGRAM = """
import os, signal, sys, time
from salt_jax.training.stop_signals import StopSignals
first, *signums = map(int, sys.argv[1:])
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopSignals() as signals:
    signals.at_end(lambda: print("cleaned", flush=True))
    if first:
        signals.begin_steps()
    for signum in signums:
        os.kill(os.getpid(), signum)
        time.sleep(0.3)
    print("alive", signals.requested, signals.exit_code)
"""


def run(first, *signums):
    arguments = [str(int(x)) for x in (first, *signums)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("signum", set(SIGNALS) - {signal.SIGHUP})
def test_before_the_first_step_a_signal_ends_the_process(signum):
    code = INTERRUPTED if signum == signal.SIGINT else STOPPED
    assert run(False, signum) == (code, "cleaned")


def test_while_the_main_thread_is_in_a_library_a_signal_ends_the_process():
    # It holds the main thread for 60 s, as a compilation does.
    busy = PROGRAM.replace(
        "time.sleep(0.3)", "import ctypes; ctypes.CDLL(None).sleep(60)"
    ).replace(
        "os.kill(os.getpid(), signum)", "os.system(f'kill -{signum} {os.getpid()}')"
    )
    done = subprocess.run([sys.executable, "-c", busy, "0", "15"], timeout=30)
    assert done.returncode == STOPPED


def test_two_signals_are_one_request():
    assert run(True, signal.SIGTERM, signal.SIGUSR1) == (0, "alive True 75")


def test_a_second_interrupt_ends_the_process_and_one_does_not():
    assert run(True, signal.SIGINT) == (0, "alive True 130")
    assert run(True, signal.SIGINT, signal.SIGINT) == (INTERRUPTED, "cleaned")


def test_a_signal_that_nohup_ignores_stays_ignored():
    assert run(False, signal.SIGHUP) == (0, "alive False 75")
