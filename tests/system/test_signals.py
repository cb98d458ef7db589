import os
import signal

import pytest

from flax_sd.system.signals import StopRequest
from tests import processes


def test_sigterm_and_ctrl_c_set_the_reason(capfd):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    hang_up = "SIGHUP (the terminal is gone)"
    names = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: hang_up, signal.SIGINT: "Ctrl-C"}
    for number, reason in names.items():
        with StopRequest() as stop:
            assert stop.reason is None
            os.kill(os.getpid(), number)
            assert stop.reason == reason
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason == reason
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert capfd.readouterr().err.count("press it again to end at once") == 1


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_without_a_terminal_to_answer_on():
    """F16: what cannot be said ends nothing."""
    with StopRequest() as stop:
        saved = os.dup(2)
        os.close(2)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        assert stop.reason == "Ctrl-C"


LOOP = """
import time
from flax_sd.system.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while True:
        if stop.reason:
            print("saving", flush=True)
            time.sleep(60)
        time.sleep(0.01)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(first):
    process = processes.start(LOOP)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == "saving\n"
    if first == signal.SIGTERM:
        process.send_signal(signal.SIGINT)
    assert [process.stderr.readline() for _ in range(2)][1].startswith("Ctrl-C: saving")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


COMPILING = """
import hashlib
from flax_sd.system.signals import StopRequest
with StopRequest("nothing is lost"):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # an hour in one call of C
"""


@pytest.mark.parametrize(("number", "name"), [(1, "SIGHUP"), (2, "Ctrl-C")])
def test_while_nothing_is_lost_a_signal_ends_at_once_whatever_is_under_way(number, name):
    process = processes.start(COMPILING)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip().startswith(name) and err.strip().endswith(": nothing is lost")
