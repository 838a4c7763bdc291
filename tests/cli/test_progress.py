"""Progress on a terminal and in a log."""

import io
import itertools

from landseg.cli.progress import Progress, Steps, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_short_work_leaves_no_line_in_a_log():
    stream = io.StringIO()
    with Progress("staging", 3, "tiles", stream=stream) as progress:
        progress.advance(3)
    assert stream.getvalue() == ""


def test_long_work_leaves_plain_lines_with_rate_and_eta():
    stream = io.StringIO()
    with Progress("staging", 4, "tiles", interval_s=0, stream=stream) as progress:
        progress.advance(1, note="loss 0.5")
        progress.advance(3)
    first, *_, last = stream.getvalue().splitlines()
    assert first.startswith("staging: 25% 1/4 tiles, ")
    assert "ETA" in first and first.endswith("loss 0.5")
    assert last.startswith("staging: 100% 4/4 tiles")
    assert "\r" not in stream.getvalue()


def test_watched_work_leaves_a_line_every_so_many_units_and_at_the_end():
    stream = io.StringIO()
    with Progress("training", 25, "iters", done=3, every=10, stream=stream) as progress:
        for _ in range(22):
            progress.advance(1)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["10/25", "20/25", "25/25"]


def test_a_terminal_gets_one_line_drawn_again():
    stream = Terminal()
    with Progress("staging", 2, "tiles", stream=stream) as progress:
        progress.advance(2)
    assert stream.getvalue().startswith("\r")
    assert stream.getvalue().count("\n") == 1


def test_resumed_work_is_not_counted_in_the_rate():
    stream = io.StringIO()
    with Progress("x", 10, "tiles", done=10, interval_s=0, stream=stream):
        pass
    assert "10/10 tiles, 0.0 tiles/s" in stream.getvalue()


def test_durations():
    assert [duration(s) for s in (0.4, 59, 61, 3600, 7300)] == ["0s", "59s", "1m01s", "1h00m", "2h01m"]


def test_steps_are_one_bar_with_the_share_of_all_the_work(monkeypatch):
    clock = itertools.count(0, 10)  # every thread of this process reads it
    monkeypatch.setattr("landseg.cli.progress.time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    with Steps("predicting", [1, 8, 1]) as steps:
        with Progress("staging", 2, "tiles", interval_s=0, stream=stream) as progress:
            progress.advance(2)
        steps.next()
        with Progress("exporting", 4, "tiles", done=2, interval_s=0, stream=stream) as progress:
            progress.advance(1)
        steps.next()
        steps.next()
    shown = [line.partition(", ")[0] for line in stream.getvalue().splitlines()]
    assert shown == [
        "predicting: 10% staging 2/2 tiles",
        "predicting: 10% staging 2/2 tiles",
        "predicting: 70% exporting 3/4 tiles",
        "predicting: 70% exporting 3/4 tiles",
    ]
    assert ", ETA " in stream.getvalue()
    with Progress("averaging", 1, "tiles", interval_s=0, stream=stream) as progress:
        progress.advance(1)
    assert stream.getvalue().splitlines()[-1].startswith("averaging: 100% 1/1 tiles")
