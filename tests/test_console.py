"""What the command line shows while it works."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator

import pytest

from napari_histoseg.console import Progress, clock, print_json, stop_request, until_stopped


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (5.4, "0:05"), (75, "1:15"), (3600, "1:00:00"), (3725.6, "1:02:06")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("done", "total", "first", "seconds", "text"),
    [
        (50, 100, 0, 60.0, ", 1:00 left"),
        (60, 100, 50, 60.0, ", 4:00 left"),  # only the ten that this run did count
        (50, 100, 50, 60.0, ""),
        (100, 100, 0, 60.0, ""),
    ],
)
def test_time_left_goes_by_the_pace_of_this_run(done: int, total: int, first: int, seconds: float, text: str) -> None:
    stream, now = io.StringIO(), Clock()
    progress = Progress(stream, now)
    progress.start(first)
    now.seconds = seconds
    progress.update(done, total, "tiles")
    assert stream.getvalue() == f"tiles{text}\n"


def test_a_terminal_redraws_one_line() -> None:
    stream, now = Terminal(), Clock()
    progress = Progress(stream, now)
    for done, text in ((0, "0/10 tiles, 200 objects"), (0, "too soon to be seen"), (0, "0/10 tiles")):
        progress.update(done, 10, text)
        now.seconds += 0.06
    progress.note("note: a tile was left out")
    progress.close()
    lines = stream.getvalue().split("\n")
    assert lines[0].split("\r")[1:] == ["0/10 tiles, 200 objects", "0/10 tiles             "]
    assert lines[1:] == ["note: a tile was left out", ""]


def test_a_log_gets_a_line_every_tenth() -> None:
    stream = io.StringIO()
    progress = Progress(stream, Clock())
    for done in range(1, 201):
        progress.update(done, 200, f"{done}/200")
    progress.close()
    lines = [line.split(",")[0] for line in stream.getvalue().splitlines()]
    assert lines == [f"{done}/200" for done in range(20, 201, 20)]


def test_what_is_not_a_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"f1": float("nan"), "several": [float("inf"), 1.5], "name": "n"})
    assert json.loads(capsys.readouterr().out) == {"f1": None, "several": [None, 1.5], "name": "n"}


def _steps(log: list[str]) -> Iterator[int]:
    try:
        yield from range(3)
    finally:
        log.append("closed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_waits_for_the_step_and_closes(number: signal.Signals) -> None:
    log: list[str] = []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        for step in until_stopped(_steps(log)):
            signal.raise_signal(number)
            log.append(f"step {step}")
    assert log == ["step 0", "closed"]
    assert signal.getsignal(number) is before


def test_a_second_request_is_not_waited_for() -> None:
    with stop_request() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_request() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)
