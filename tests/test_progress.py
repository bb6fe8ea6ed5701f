"""Progress and messages: a table that fits 80 columns, a panel on a terminal, names that control neither."""

import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwcl import formatting
from lwcl.metrics.health import Health
from lwcl.reporting import console, health_ranges, panel, progress_table, throughput
from lwcl.settings import FLAG, SettingValue

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
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=stream, stderr=stream))
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves only when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


METRICS = {**HEALTHY._asdict(), "top1": 0.25}
SHOWN = ("std", "effective_rank", "top1")


def train(
    screen: console.Screen, title: str = "pretrain", steps: int = 20, each: Callable[[], None] = lambda: None
) -> Any:
    shape = {"start": 0, "steps": steps, "steps_per_epoch": 10, "batch_size": 32}
    with screen.training(title, **shape, metrics=SHOWN) as training:
        for number in range(1, steps + 1):
            each()
            training.step(throughput.StepStats(number, number / 10, 0.03, 5.0 / number, 0.01, 0.1), METRICS)
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
    screen = console.Screen()
    screen.say(formatting.escape(HOSTILE[name]))
    train(screen, title=HOSTILE[name])
    console.print_table(HOSTILE[name], [HOSTILE[name]], [[HOSTILE[name]]])
    written = terminal.getvalue()
    shown = visible(written)
    for character in ("\x9b", "\u202e", "\udce9", "\x1b"):
        assert character not in shown
    assert "\x1b[31mred" not in written
    assert formatting.escape(HOSTILE[name])[:20] in shown
    assert not any(line.startswith("Warning") for line in shown.splitlines())


def test_progress_is_a_header_and_a_row_per_epoch_in_plain_text(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    train(console.Screen(), steps=50, each=lambda: clock(0.5))
    captured = capsys.readouterr()
    header, *rows = captured.err.splitlines()
    assert (captured.out, "\x1b" in captured.err) == ("", False)
    assert header.split() == ["epoch", "step", "loss", "lr", "img/s", "wait", "eta", "std", "eff.rank", "top-1"]
    assert rows[0].split() == ["1/5", "10/50", "1.464", "3.0e-02", "320", "10%", "0:20", "0.90", "60.0", "25.0%"]
    assert [row.split()[0] for row in rows] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert {len(row) for row in rows} == {len(header)}


def test_an_epoch_of_hours_has_a_row_a_minute(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with console.Screen().training("t", start=0, steps=2000, steps_per_epoch=1000, batch_size=32) as training:
        for number in range(1, 601):
            clock(1.0)
            training.step(throughput.StepStats(number, number / 1000, 0.03, 5.0, 0.01, 0.1))
    rows = [line for line in capsys.readouterr().err.splitlines() if "/2000" in line]
    assert [row.split()[1] for row in rows] == [f"{60 * minute}/2000" for minute in range(1, 11)]


@pytest.mark.parametrize(("seconds", "told"), [(60.0, True), (0.5, False)])
def test_a_long_run_says_early_when_it_will_end(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str], seconds: float, told: bool
) -> None:
    train(console.Screen(), steps=120, each=lambda: clock(seconds))
    written = capsys.readouterr().err
    assert ("About 1:50:00 to go. Ctrl-C saves, and the same command resumes." in written) == told
    assert written.count("to go.") == told


def test_rows_are_few_however_short_the_epochs(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    train(console.Screen(), steps=1000, each=lambda: clock(0.01))
    assert len(capsys.readouterr().err.splitlines()) <= 13


@pytest.mark.parametrize("epochs", [1, 12, 200, 1000])
@pytest.mark.parametrize("steps_per_epoch", [1, 46, 5005, 9999])
@pytest.mark.parametrize("metrics", [(), SHOWN, (*SHOWN, "knn_top1")])
def test_a_row_fits_80_columns_and_stands_below_its_header(
    epochs: int, steps_per_epoch: int, metrics: tuple[str, ...]
) -> None:
    steps = epochs * steps_per_epoch
    progress = throughput.TrainProgress("t", 0, steps, steps_per_epoch, 4096)
    table = progress_table.ProgressTable(progress, metrics)
    values = {"std": 0.0, "effective_rank": 2048.0, "top1": 1.0}
    progress.add(throughput.StepStats(steps, epochs, 1e-10, -12345.6, 1.0, 1.0), values)
    progress.add_knn(epochs, 1.0)
    header, row = table.header(), table.row()
    assert len(row) == len(header) <= 80
    assert len(row.split()) == len(header.split())


def test_a_metric_is_shown_once_and_averaged_over_its_row() -> None:
    progress = throughput.TrainProgress("t", 0, 20, 10, 32)
    table = progress_table.ProgressTable(progress, SHOWN)
    for number, metrics in enumerate([{"std": 0.8, "top1": 0.1}, {"top1": 0.3}], 1):
        progress.add(throughput.StepStats(number, number / 10, 0.1, float(number), 0.0, 0.5), metrics)
    columns = [slice(table.header().index(title), table.header().index(title) + len(title)) for title in ("std",)]
    first = table.row()
    progress.add(throughput.StepStats(3, 0.3, 0.1, 9.0, 0.0, 0.5), {"top1": 0.5})
    second = table.row()
    assert (first.split()[2], first.split()[-1], first[columns[0]].strip()) == ("1.500", "20.0%", ".80")
    assert (second.split()[2], second.split()[-1], second[columns[0]].strip()) == ("9.000", "50.0%", "")


def test_the_log_gets_every_sentence_and_quiet_people_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    screen = console.Screen(quiet=True, log=log.append)
    screen.say("first\nsecond")
    screen.warn("beware")
    train(screen)
    assert capsys.readouterr().err == "Warning: beware\n"
    assert log[:2] == ["first\nsecond", "Warning: beware"]
    assert log[-1].split()[:2] == ["2/2", "20/20"]


def test_on_a_terminal_rows_stand_above_a_panel_and_the_log_is_plain(terminal: Terminal) -> None:
    log: list[str] = []
    screen = console.Screen(log=log.append)
    shape = {"start": 0, "steps": 20, "steps_per_epoch": 10, "batch_size": 64}
    with screen.training("pretrain moco", **shape, metrics=(*SHOWN, "knn_top1")) as training:
        for number in range(1, 10):
            training.step(throughput.StepStats(number, number / 10, 0.03, 5.0, 0.01, 0.1), METRICS)
        training.knn(1, 0.5)
        training.step(throughput.StepStats(10, 1.0, 0.03, 5.0, 0.01, 0.1), {**METRICS, "effective_rank": 2.0})
        screen.warn("above the panel")
    shown = visible(terminal.getvalue())
    wanted = (
        "pretrain moco",
        "1.00/2",
        "step 10/20",
        "640 images/s",
        "lr 3.0e-02",
        "std 0.90",
        "top-1 25.0%",
        "(step 10)",
    )
    for text in (*wanted, "effective rank 2.0 low", "top-1 50.0% after epoch 1", "Warning: above the panel"):
        assert text in shown
    assert log[1] in shown
    assert log[1].split()[-2:] == ["25.0%", "50.0%"]
    assert "\x1b" not in "".join(log)
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("width", [80, 140])
def test_the_panel_fits_a_small_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    progress = throughput.TrainProgress("light-moco mobilenetv3_large_100", 0, 552_000, 46, 64)
    for number in range(1, 600):
        progress.add(throughput.StepStats(number, number / 46, 0.03, 5.0 / number, 0.01, 0.1), METRICS)
    progress.add_knn(1, 0.5)
    progress.add_knn(2, 0.4)
    stream = panel.rich_console(io.StringIO())
    stream.print(panel.training_panel(progress))
    lines = stream.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    assert len(lines) <= 10


def test_no_color_is_honoured(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    train(console.Screen())
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue())
    terminal.truncate(0)
    monkeypatch.setenv("NO_COLOR", "1")
    train(console.Screen())
    assert "step 20/20" in terminal.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.getvalue())


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    train(console.Screen())
    assert "20/20" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_count_within_a_training_is_drawn_below_it_and_goes_away(terminal: Terminal) -> None:
    screen = console.Screen()
    with screen.training("outer", start=0, steps=1, steps_per_epoch=1, batch_size=2):
        with screen.counting("inner [b]x[/b]", 4) as counting:
            counting.advance(3)
        before = len(terminal.getvalue())
    assert "inner [b]x[/b]" in visible(terminal.getvalue()[:before])
    assert "3/4" in visible(terminal.getvalue()[:before])
    last = terminal.getvalue()[before:]
    assert "outer" in last
    assert "inner" not in last


def test_the_screen_is_given_back_when_a_training_fails(terminal: Terminal) -> None:
    screen, before = console.Screen(), sys.stderr
    with pytest.raises(KeyError), screen.training("t", start=0, steps=1, steps_per_epoch=1, batch_size=2):
        raise KeyError
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert sys.stderr is before


def test_a_count_tells_in_plain_lines_how_far_it_is(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    screen = console.Screen()
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
    train(console.Screen(quiet=True), steps=2000)
    assert time.perf_counter() - begun < 2


def test_timing_is_the_median_speed_and_the_share_of_waiting(clock: Callable[[float], None]) -> None:
    timing = train(console.Screen(quiet=True), each=lambda: clock(0.1)).timing()
    assert timing == {"images_per_second": 320.0, "seconds": pytest.approx(2.0), "waited": pytest.approx(0.1)}


def test_the_remaining_time_counts_what_happens_between_steps(clock: Callable[[float], None]) -> None:
    done = throughput.TrainProgress("t", 10, 20, 10, 32)
    assert math.isnan(done.remaining())
    for number in (11, 12, 13):
        clock(2)
        done.add(throughput.StepStats(number, number / 10, 0.1, 1.0, 0.0, 0.5), {})
    assert done.remaining() == pytest.approx(14)


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


def test_every_health_metric_has_a_normal_range_and_a_word_beyond_it() -> None:
    assert set(Health._fields) < set(health_ranges.HEALTH_METRICS)
    assert [health_ranges.out_of_range(name, value) for name, value in METRICS.items()] == [""] * 5
    beyond = {"std": 0.05, "effective_rank": 1.0, "top1": 0.0, "alignment": 1.9, "uniformity": -0.1}
    words = [health_ranges.out_of_range(name, value) for name, value in beyond.items()]
    assert words == ["low", "low", "low", "high", "high"]
    assert health_ranges.out_of_range("std", math.nan) == "low"
    assert [health_ranges.out_of_range("effective_rank", 2, batch) for batch in (8, 16, 256)] == ["", "", "low"]


def alarms(ranks: Sequence[float], collapsed: Sequence[bool] = (), **settings: bool) -> list[str]:
    """The warnings that measurements of the effective rank give."""
    alarm = health_ranges.HealthAlarm({name: SettingValue(value, FLAG) for name, value in settings.items()})
    warnings = (alarm.update(r, collapsed=c) for r, c in itertools.zip_longest(ranks, collapsed, fillvalue=False))
    return [warning for warning in warnings if warning]


def test_a_falling_effective_rank_is_a_warning_once_with_what_to_try() -> None:
    fall = [50.0, 50.0, 37.0, 21.0, 9.0, 7.0, 6.0, 5.0, 6.0, 6.0]
    (warning,) = alarms(fall, head_norm=False, zero_residuals=True)
    assert warning.startswith("possible dimensional collapse: effective rank fell from 50 to 9; try --head-norm, ")
    assert "--zero-residuals" not in warning
    assert len(alarms([*fall, 40.0, 40.0, 40.0, *fall])) == 2, "after a recovery, a fall is news"


@pytest.mark.parametrize(
    "ranks", [[50.0, 2.0, 50.0, 50.0], [50.0, 30.0, 20.0, 15.0], [900.0, 120.0, 100.0, 100.0], [3.0]]
)
def test_a_rank_that_stays_high_or_falls_once_is_no_warning(ranks: list[float]) -> None:
    assert alarms(ranks) == []


def test_a_collapse_is_a_warning_once() -> None:
    (warning,) = alarms([1.0] * 6, [False, False, False, False, True, True])
    assert warning.startswith("collapse: the embeddings of all images are nearly equal; try a lower --lr")


def stalls(losses: Sequence[float], stalled: float | None = 8.0, start: int = 2) -> list[str]:
    """The warnings that a loss gives, measured once an epoch from epoch `start` on."""
    alarm = health_ranges.StallAlarm(stalled, "try this")
    return [warning for epoch, loss in enumerate(losses, start) if (warning := alarm.update(epoch, loss))]


def test_a_loss_that_stays_where_a_collapse_has_it_is_a_warning_once_with_what_to_try() -> None:
    (warning,) = stalls([8.01, 8.0, 8.0, 7.99, 8.0, 8.0, 8.0])
    assert "8.000" in warning
    assert warning.endswith("try this")
    assert len(stalls([8.0] * 6 + [7.0] + [8.0] * 6)) == 2, "after a recovery, it is news"


@pytest.mark.parametrize(
    ("losses", "stalled", "start"),
    [([8.0] * 4, 8.0, 2), ([8.0, 8.0, 7.9, 8.0, 8.0, 7.8], 8.0, 2), ([8.0] * 9, None, 2), ([8.0] * 6, 8.0, 0)],
)
def test_a_loss_that_falls_or_is_young_is_no_stall(losses: list[float], stalled: float | None, start: int) -> None:
    assert stalls(losses, stalled, start) == []


def test_a_plain_table_is_aligned_and_has_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table("kNN", ["encoder", "k"], [["a", 5], ["bcd\n", 1200]])
    assert capsys.readouterr().out == "kNN\nencoder      k\na            5\nbcd\\n    1,200\n"


def test_output_that_has_no_unicode_gets_backslashes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console.write_line("Straße", stream)
    assert stream.buffer.getvalue() == b"Stra\\xdfe\n"  # type: ignore[attr-defined]


def test_json_results_are_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}


def test_a_table_on_a_terminal_shows_brackets(terminal: Terminal) -> None:
    console.print_table("t", ["a"], [["[bold]x[/bold]"]])
    assert "[bold]x[/bold]" in visible(terminal.getvalue())


def test_a_table_that_is_wider_than_the_terminal_has_a_block_for_each_row(terminal: Terminal) -> None:
    columns = ["encoder", *(f"measure {i}" for i in range(20))]
    console.print_table("t", columns, [["a name with blanks", *range(20)], ["other", None, *range(1, 20)]])
    written = visible(terminal.getvalue())
    lines = [line.split() for line in written.splitlines()]
    assert lines.index(["a", "name", "with", "blanks"]) < lines.index(["measure", "0", "0"]) < lines.index(["other"])
    assert written.count("measure 0") == 1, "what has no value has no line"
    assert written.count("measure 19") == 2
    assert all(len(line) <= 80 for line in written.splitlines())


def test_a_name_loses_its_middle_before_a_table_becomes_blocks(terminal: Terminal) -> None:
    columns = ["encoder", "top-1", "interval", "k"]
    console.print_table("", columns, [["runs/" + "x" * 70 + "/export", "17.0%", "14.7 to 19.4", 20]])
    row = next(line for line in visible(terminal.getvalue()).splitlines() if "17.0%" in line)
    assert "…" in row
    assert "/export" in row
    assert "14.7 to 19.4" in row


def test_a_panel_before_the_first_step_has_no_numbers_yet() -> None:
    stream = panel.rich_console(io.StringIO())
    stream.print(panel.training_panel(throughput.TrainProgress("t", 0, 20, 10, 32)))
    written = stream.file.getvalue()  # type: ignore[attr-defined]
    assert "nan" not in written
    assert "0.00/2" in written


def test_importing_progress_costs_neither_torch_nor_rich() -> None:
    code = "import sys, lwcl.reporting.console; print([m for m in ('torch', 'rich', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_count_agrees_with_its_noun() -> None:
    counts = [formatting.plural(1, "image"), formatting.plural(2000, "image"), formatting.plural(0, "class", "classes")]
    assert counts == ["1 image", "2,000 images", "0 classes"]
    assert [formatting.plural(count, "epoch") for count in (1.0, 0.25, 20.0)] == ["1 epoch", "0.25 epochs", "20 epochs"]
