"""`dots chat` at a terminal, as a person has it: Ctrl-C stops the answer and not the program."""

import os
import pty
import re
import select
import signal
import sys
import tempfile
import time

import suite

DOTS, MODEL = sys.argv[1:]
# The history of what was typed goes here, not to the user's own.
STATE = tempfile.TemporaryDirectory()
STATS = re.compile(r"\d+ prompt tokens, \d+ completion tokens")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Chat:
    def __init__(self, *args):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", HF_HUB_OFFLINE="1", XDG_STATE_HOME=STATE.name)
            os.execv(DOTS, [DOTS, "chat", MODEL, *args])
        self.text = ""

    def type(self, keys):
        """Types `keys`, and forgets what was on the screen."""
        self.text = ""
        os.write(self.terminal, keys)

    def read_until(self, is_there, seconds=60):
        end = time.monotonic() + seconds
        while not is_there(self.text):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"not there after {seconds} s: {self.text!r}")
            if select.select([self.terminal], [], [], left)[0]:
                # Linux says EIO, and other systems nothing, once the program has ended.
                try:
                    read = os.read(self.terminal, 4096)
                except OSError:
                    read = b""
                assert read, f"the program has ended: {self.text!r}"
                self.text = ESCAPES.sub("", self.text + read.decode(errors="replace"))

    def exit_code(self, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("the program does not end")


def test_ctrl_c_stops_an_answer_and_not_the_program():
    chat = Chat("--seed", "1")
    chat.read_until(lambda text: "> " in text)
    # The model is small and quick, and an answer may end before the key is pressed; then the next one is tried.
    for _ in range(50):
        chat.type(b"Hello\r")
        chat.read_until(lambda text: re.search(r"Hello\s*\n.*\S", text))
        os.write(chat.terminal, b"\x03")
        try:
            chat.read_until(lambda text: "(stopped)" in text, seconds=1)
            break
        except TimeoutError:
            chat.type(b"/reset\r")
            chat.read_until(lambda text: "forgotten" in text)
    assert "(stopped)" in chat.text, chat.text
    chat.type(b"/reset\r")
    chat.read_until(lambda text: "forgotten" in text)
    chat.type(b"And now?\r")
    chat.read_until(STATS.search)
    chat.type(b"/exit\r")
    assert chat.exit_code() == 0


def test_a_ctrl_c_that_comes_before_the_first_answer_does_not_end_the_program():
    for milliseconds in range(8):
        chat = Chat("--seed", "1")
        chat.read_until(lambda text: "> " in text)
        chat.type(b"Hello\r")
        chat.read_until(lambda text: re.search(r"Hello\s*\n", text))
        time.sleep(milliseconds / 1000)
        chat.type(b"\x03")
        time.sleep(0.5)
        chat.type(b"/reset\r")
        chat.read_until(lambda text: "forgotten" in text)
        chat.type(b"/exit\r")
        assert chat.exit_code() == 0


suite.run("terminal", globals())
