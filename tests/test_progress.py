"""What a run says: plain lines without escapes, one panel on a terminal, names that cannot steer either."""

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwcl import formatting
from lwcl.metrics.health import Health
from lwcl.reporting import console as progress
from lwcl.reporting import health_words, panel, throughput

HOSTILE = {
    "html": "<script>alert(1)</script>",
    "ansi": "\x1b[2J\x1b[31mred\x1b[0m",
    "c1": "\x9b31m",
    "markup": "[red]cat[/red]",
    "newline": "cat\nWarning: all is lost",
    "carriage": "cat\rdog",
    "rtl": "cat\u202egpj.exe",
    "bytes": os.fsdecode(b"caf\xe9"),
    "emoji": ":pile_of_poo:",
    "long": "x" * 255,
}
HEALTHY = Health(0.9, 60.0, 0.4, -3.0)


class Terminal(io.StringIO):
    """A stream that calls itself a terminal, 100 columns wide."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stdout=stream, stderr=stream))
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves only when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def train(
    screen: progress.Screen, title: str = "pretrain", steps: int = 20, each: Callable[[], None] = lambda: None
) -> Any:
    with screen.training(title, start=0, steps=steps, steps_per_epoch=10, batch_size=32) as training:
        for number in range(1, steps + 1):
            each()
            training.step(throughput.StepStats(number, number / 10, 0.03, 5.0 / number, 0.01, 0.1), HEALTHY, found=0.25)
    return training


def visible(text: str) -> str:
    """What a terminal's escapes leave: its text."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_printable_on_one_line_and_stays_so(name: str) -> None:
    text = formatting.escape(HOSTILE[name])
    assert text.isprintable()
    assert formatting.escape(text) == text
    assert text.encode()


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_printable_and_can_be_encoded(text: str) -> None:
    assert formatting.escape(text).isprintable()
    formatting.escape(text).encode()


def test_text_that_is_fine_stays_as_it_is() -> None:
    assert formatting.escape("Straße 猫 [red] <b> c:\\x") == "Straße 猫 [red] <b> c:\\x"


@pytest.mark.parametrize("name", HOSTILE)
def test_json_keeps_names_and_is_ascii_that_strict_parsers_take(name: str) -> None:
    text = formatting.json_document({HOSTILE[name]: [HOSTILE[name], "\\ud800", "🐈"]})
    assert text.isascii()
    assert "\x1b" not in text
    (key, value), *_ = json.loads(text).items()
    key.encode("utf-8", "strict")  # no lone surrogate is left
    assert value == [key, "\\ud800", "🐈"]
    assert key == (HOSTILE[name] if name != "bytes" else "caf\\udce9")


def test_json_has_no_nan() -> None:
    assert json.loads(formatting.json_document({"loss": math.nan})) == {"loss": None}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_hostile_names_and_does_not_obey_them(terminal: Terminal, name: str) -> None:
    screen = progress.Screen()
    screen.say(formatting.escape(HOSTILE[name]))
    train(screen, title=HOSTILE[name])
    progress.print_table(HOSTILE[name], [HOSTILE[name]], [[HOSTILE[name]]])
    written = terminal.getvalue()
    shown = visible(written)
    for character in ("\x9b", "\u202e", "\udce9", "\x1b"):
        assert character not in shown
    assert "\x1b[31mred" not in written
    assert formatting.escape(HOSTILE[name])[:20] in shown
    assert not any(line.startswith("Warning") for line in shown.splitlines())


def test_plain_lines_have_no_escapes_and_come_every_five_seconds(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    train(progress.Screen(), steps=200, each=lambda: clock(0.5))
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert "\x1b" not in captured.err
    assert lines[0].startswith("step 1/200, epoch 0.10/20; loss 5.0000")
    assert "320 images/s, 10.0% waiting for data" in lines[0]
    assert "spread 0.90 good" in lines[0]
    assert "keys found 25.0% fair" in lines[0]
    assert lines[-1].startswith("step 200/200")
    assert len(lines) == 1 + 200 * 0.5 // 5


def test_plain_lines_are_few_however_short_the_epochs(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    train(progress.Screen(), steps=1000, each=lambda: clock(0.01))
    assert len(capsys.readouterr().err.splitlines()) <= 12


def test_the_log_gets_every_sentence_and_quiet_people_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    screen = progress.Screen(quiet=True, log=log.append)
    screen.say("first\nsecond")
    screen.warn("beware")
    train(screen)
    assert capsys.readouterr().err == "Warning: beware\n"
    assert log[:2] == ["first\nsecond", "Warning: beware"]
    assert log[-1].startswith("step 20/20")


def test_on_a_terminal_the_log_is_plain_and_the_panel_shows_all(terminal: Terminal) -> None:
    log: list[str] = []
    screen = progress.Screen(log=log.append)
    with screen.training("pretrain moco", start=0, steps=20, steps_per_epoch=10, batch_size=64) as training:
        for number in range(1, 11):
            training.step(throughput.StepStats(number, number / 10, 0.03, 5.0, 0.01, 0.1), HEALTHY, found=0.25)
        training.monitored(1, 0.5)
        screen.warn("above the panel")
    shown = visible(terminal.getvalue())
    wanted = ("pretrain moco", "1.00 of 2", "step 10 of 20", "640 images/s", "learning rate 0.03", "spread 0.90 good")
    for text in (*wanted, "keys found 25.0% fair", "kNN top-1 after epoch 1: 50.0%", "Warning: above the panel"):
        assert text in shown
    assert "step 1/20" not in shown
    assert log[0].startswith("step 1/20")
    assert "\x1b" not in "".join(log)
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    train(progress.Screen())
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue())
    terminal.truncate(0)
    monkeypatch.setenv("NO_COLOR", "1")
    train(progress.Screen())
    assert "step 20 of 20" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue())


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    train(progress.Screen())
    assert "step 20/20" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_count_within_a_training_is_drawn_below_it_and_goes_away(terminal: Terminal) -> None:
    screen = progress.Screen()
    with screen.training("outer", start=0, steps=1, steps_per_epoch=1, batch_size=2):
        with screen.counting("inner [b]x[/b]", 4) as counting:
            counting.advance(3)
        before = len(terminal.getvalue())
    assert "inner [b]x[/b]" in visible(terminal.getvalue()[:before])
    assert "3 of 4" in visible(terminal.getvalue()[:before])
    last = terminal.getvalue()[before:]
    assert "outer" in last
    assert "inner" not in last


def test_the_screen_is_given_back_when_a_training_fails(terminal: Terminal) -> None:
    screen, before = progress.Screen(), sys.stderr
    with pytest.raises(KeyError), screen.training("t", start=0, steps=1, steps_per_epoch=1, batch_size=2):
        raise KeyError
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert sys.stderr is before


def test_a_count_tells_in_plain_lines_how_far_it_is(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    screen = progress.Screen()
    with screen.counting("filling", 100) as counting:
        for _ in range(10):
            clock(1)
            counting.advance(10)
    with screen.counting("in no time", 3):
        pass
    lines = [
        "filling: 50 of 100 (50.0%), 5.0 s left",
        "filling: 100 of 100 (100.0%), 0.0 s left",
        "filling: 100 in 10 s",
    ]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_step_that_draws_nothing_costs_less_than_a_millisecond(clock: Callable[[float], None]) -> None:
    begun = time.perf_counter()
    train(progress.Screen(quiet=True), steps=2000)
    assert time.perf_counter() - begun < 2


def test_timing_is_the_median_speed_and_the_share_of_waiting(clock: Callable[[float], None]) -> None:
    timing = train(progress.Screen(quiet=True), each=lambda: clock(0.1)).timing()
    assert timing == {"images_per_second": 320.0, "seconds": pytest.approx(2.0), "waited": pytest.approx(0.1)}


def test_the_remaining_time_counts_what_happens_between_steps(clock: Callable[[float], None]) -> None:
    done = throughput.TrainProgress("t", 10, 20, 10, 32)
    assert math.isnan(done.remaining())
    for number in (11, 12, 13):
        clock(2)
        done.add(throughput.StepStats(number, number / 10, 0.1, 1.0, 0.0, 0.5), {})
    assert done.remaining() == pytest.approx(14)


def test_a_step_without_health_leaves_what_was_known() -> None:
    done = throughput.TrainProgress("t", 0, 20, 10, 32)
    done.add(throughput.StepStats(1, 0.1, 0.1, 1.0, 0.0, 0.5), {"found": 0.1, "spread": 0.5})
    done.add(throughput.StepStats(2, 0.2, 0.1, 1.0, 0.0, 0.5), {"found": 0.2})
    assert done.measures == {"spread": 0.5, "found": 0.2}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=3 * throughput.MAX_CURVE_POINTS))
def test_a_trace_is_short_and_keeps_the_shape(values: list[float]) -> None:
    trace = throughput.DownsampledCurve()
    for value in values:
        trace.add(value)
    assert len(trace.points) < throughput.MAX_CURVE_POINTS
    assert trace.points[0] == pytest.approx(values[0], abs=200)
    assert min(values) - 1e-9 <= min(trace.points, default=0.0)
    assert max(trace.points, default=0.0) <= max(values) + 1e-9


def test_a_sparkline_rises_and_falls_with_its_values() -> None:
    assert formatting.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert formatting.sparkline([7, 0, 7]) == "█▁█"
    assert formatting.sparkline([1, 1, 1]) == "▁▁▁"
    assert formatting.sparkline([]) == ""
    assert formatting.sparkline([0.0, math.nan, 7.0]) == "▁!█"
    assert formatting.sparkline([float(i) for i in range(1000)], 4) == "▁▃▆█"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (42, "42 s"),
        (162, "2:42"),
        (3723, "1:02:03"),
        (183_600, "51:00:00"),
        (1e6, "11.6 d"),
        (math.nan, "-"),
    ],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_cells_are_written_for_people() -> None:
    cells = [None, math.nan, True, 12345, 0.123456, 123456.7, (1, "a"), (), "a\tb"]
    assert list(map(formatting.format_cell, cells)) == [
        "-",
        "-",
        "yes",
        "12,345",
        "0.1235",
        "123,457",
        "1, a",
        "-",
        "a\\tb",
    ]


def test_every_measure_of_health_has_its_words() -> None:
    assert set(Health._fields) < set(health_words.HEALTH_METRICS)
    assert health_words.health_summary(HEALTHY._asdict()).count(" good") == 2
    assert health_words.health_word("spread", 0.05) == "low"
    assert health_words.health_word("spread", math.nan) == "low"
    assert health_words.health_word("uniformity", -0.1) == "clumped"
    assert [health_words.health_word("rank", 8, batch) for batch in (8, 16, 256)] == ["good", "good", "fair"]


def test_a_plain_table_is_aligned_and_has_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    progress.print_table("kNN", ["encoder", "k"], [["a", 5], ["bcd\n", 1200]])
    assert capsys.readouterr().out == "kNN\nencoder      k\na            5\nbcd\\n    1,200\n"


def test_output_that_has_no_unicode_gets_backslashes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    progress.write_line("Straße", stream)
    assert stream.buffer.getvalue() == b"Stra\\xdfe\n"  # type: ignore[attr-defined]


def test_json_results_are_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    progress.print_json({"a": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}


def test_a_table_on_a_terminal_shows_brackets(terminal: Terminal) -> None:
    progress.print_table("t", ["a"], [["[bold]x[/bold]"]])
    assert "[bold]x[/bold]" in visible(terminal.getvalue())


def test_a_panel_before_the_first_step_has_no_numbers_yet() -> None:
    console = panel.rich_console(io.StringIO())
    console.print(panel.training_panel(throughput.TrainProgress("t", 0, 20, 10, 32)))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "nan" not in written
    assert "0.00 of 2" in written


def test_importing_progress_costs_neither_torch_nor_rich() -> None:
    code = "import sys, lwcl.reporting.console; print([m for m in ('torch', 'rich', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_count_agrees_with_its_noun() -> None:
    counts = [formatting.plural(1, "image"), formatting.plural(2000, "image"), formatting.plural(0, "class", "classes")]
    assert counts == ["1 image", "2,000 images", "0 classes"]
