"""The program from outside: what it says, where, with which exit code, and that saying it never waits for torch."""

import json
import os
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lwcl
from lwcl.cli import main
from lwcl.config.train_options import DataOptions
from lwcl.errors import DataError, StorageError, TrainingDivergedError, UsageError

HEAVY = ("torch", "torchvision", "timm", "numpy", "PIL", "rich", "matplotlib")
PROBE = f"""
import resource, sys
from lwcl.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print([name for name in {HEAVY} if name in sys.modules], code, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def outside(*words, **environment):
    """Runs the program in a process of its own: heavy modules it imported, exit code, CPU seconds, stdout, stderr."""
    process = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    *stderr, last = process.stderr.splitlines()
    modules, _, rest = last.partition("] ")
    code, seconds = rest.split()
    return modules + "]", int(code), float(seconds), process.stdout, "\n".join(stderr)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("", 0),
        ("--help", 0),
        ("pretrain --help", 0),
        ("knn -h", 0),
        ("list archs mobilenet", 0),
        ("pretrian", 2),
        ("pretrain --smothing 1", 2),
        ("pretrain --lr fast", 2),
        ("pretrain --arch resnet81", 2),
        ("pretrain --method moco --smoothing 0.1", 2),
        ("pretrain --config nowhere.yaml", 2),
        ("knn runs/mine --preset 2nn", 2),
    ],
)
def test_parsing_never_waits_for_torch(words, code):
    modules, got, seconds, _, _ = outside(*words.split())
    assert modules == "[]"
    assert got == code
    assert seconds < 1, "a quarter of a second, with room for a busy machine"


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        ("lwcl pr", 1, "pretrain"),
        ("lwcl pretrain --arch efficientnet_b", 3, "efficientnet_b0"),
        ("lwcl pretrain --method ", 3, "light-moco"),
        ("lwcl pretrain --recipe s", 3, "ssl-small"),
        ("lwcl pretrain --augmentation d", 3, "digits"),
        ("lwcl pretrain --schedule c", 3, "cosine"),
        ("lwcl pretrain --smoothing-w", 2, "--smoothing-warmup"),
        ("lwcl list re", 2, "recipes"),
    ],
)
def test_the_shell_completes_without_torch(line, word, expected):
    modules, code, _, stdout, _ = outside(_LWCL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(word))
    assert expected in stdout.split()
    assert (modules, code) == ("[]", 0)


def test_the_program_is_a_module_too():
    done = subprocess.run([sys.executable, "-m", "lwcl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"lwcl {lwcl.__version__}\n"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Stands for what `pretrain`, `knn` and `doctor` call: keeps what it was called with; its outcome can be set."""
    monkeypatch.setenv("LWCL_CACHE", str(tmp_path))
    stand_in = types.SimpleNamespace(calls=[], outcome=0)

    def called(*arguments, **named):
        stand_in.calls.append((arguments, named))
        if isinstance(stand_in.outcome, BaseException):
            raise stand_in.outcome
        return stand_in.outcome

    for place in ("commands.train.train_run", "commands.knn.run_knn", "commands.doctor.run_doctor"):
        monkeypatch.setattr(f"lwcl.{place}", called)
    return stand_in


def test_pretrain_passes_the_plan_on(run):
    words = "pretrain --lr 1e-3 --data a --data b --no-head-norm --dry-run --fast-dev-run 3 --json --quiet"
    assert main.main(words.split()) == 0
    [((plan,), named)] = run.calls
    assert named == {"dry_run": True, "fast_dev_run": 3, "as_json": True, "quiet": True}
    assert (plan.optimization.lr, plan.options.data, plan.method.head_norm) == (0.001, ("a", "b"), False)


def test_a_file_gives_settings_and_flags_win(run, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("lr: 0.5\nepochs: 3\n")
    assert main.main(["pretrain", "--config", str(path), "--epochs", "4"]) == 0
    values = run.calls[0][0][0].values
    assert (values["lr"].value, str(values["lr"].origin)) == (0.5, str(path))
    assert (values["epochs"].value, str(values["epochs"].origin)) == (4, "flag")


def test_knn_passes_encoders_and_options_on(run):
    assert main.main(["knn", "runs/a", "runs/b", "--k", "5", "--no-random-init"]) == 0
    [((encoders, options), named)] = run.calls
    assert encoders == ["runs/a", "runs/b"]
    assert (options.k, options.random_init) == (5, False)
    assert named == {"as_json": False, "quiet": False}


def test_doctor_passes_data_on(run):
    run.outcome = 4
    assert main.main(["doctor", "--data", "a", "--json"]) == 4
    assert run.calls == [((DataOptions(data=("a",)),), {"as_json": True})]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u"), 2),
        (TrainingDivergedError("s"), 3),
        (DataError("d"), 4),
        (StorageError("t"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(run, error, code):
    run.outcome = error
    assert main.main(["pretrain"]) == code


def test_an_error_is_three_lines_on_stderr_and_markup_is_text(run, capsys):
    run.outcome = DataError("Cannot read '[red]a\x1b[31m.jpg'.", "It is [bold]no image.", "Delete it.")
    assert main.main(["pretrain", "--json"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["Cannot read '[red]a\\x1b[31m.jpg'.", "It is [bold]no image.", "Delete it."]


def test_a_bug_is_a_sentence_and_a_traceback_kept_in_a_file(run, capsys, tmp_path):
    run.outcome = ZeroDivisionError("by zero")
    assert main.main(["pretrain"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "This is a bug in lwcl: ZeroDivisionError: by zero"
    assert str(tmp_path) in lines[1]
    assert "Traceback" not in "".join(lines).replace("Traceback: ", "").replace("--debug to see the traceback", "")
    assert "ZeroDivisionError: by zero" in (tmp_path / "last-error.txt").read_text()


@pytest.mark.parametrize("error", [EOFError("cut"), OSError("odd"), RuntimeError("strange")])
def test_no_exception_of_ours_passes_for_one_of_typer(run, error, capsys):
    run.outcome = error
    assert main.main(["pretrain"]) == 1
    assert "bug in lwcl" in capsys.readouterr().err


def test_debug_shows_the_traceback(run, capsys):
    run.outcome = DataError("No images.")
    assert main.main(["pretrain", "--debug"]) == 4
    assert "Traceback (most recent call last)" in capsys.readouterr().err


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("--batch-size 64", "Try: lwcl pretrain --image-size 96 --batch-size 64 --accumulate 2"),
        (
            "--batch-size 64 --accumulate 4",
            "Try: lwcl pretrain --image-size 96 --batch-size 64 --accumulate 4 --accumulate 8",
        ),
        (
            "--batch-size 3 --accumulate 3",
            "Try: lwcl pretrain --image-size 96 --batch-size 3 --accumulate 3 --batch-size 2",
        ),
        ("", "Try: lwcl pretrain --image-size 96 --accumulate 2"),
    ],
)
def test_running_out_of_memory_says_what_to_try(run, error, words, advice, capsys):
    run.outcome = error
    assert main.main(["pretrain", "--image-size", "96", *words.split()]) == 2
    first, _, last = capsys.readouterr().err.splitlines()
    assert "images of 96 px" in first
    assert last == advice


def test_advice_on_memory_is_a_command_that_parses_and_halves_what_is_computed_at_once(run):
    run.outcome = MemoryError()
    assert main.main(["pretrain", "--batch-size", "64", "--accumulate", "4", "--accumulate", "8"]) == 2
    assert run.calls[-1][0][0].optimization.accumulate == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrian", "Did you mean pretrain?"),
        ("train", "Did you mean pretrain?"),
        ("diagnose runs/a", "Did you mean diagnose-clustering?"),
        ("pretrain --model resnet18", "Did you mean --arch?"),
        ("knn --model runs/a", "without a flag, as in `lwcl knn RUN`"),
        ("embed --weights runs/a", "without a flag, as in `lwcl embed RUN`"),
        ("pretrain --dataset photos", "Did you mean --data?"),
        ("pretrain --epoch 3", "Did you mean --epochs"),
        ("pretrain --smothing 3", "Did you mean --smoothing"),
        ("pretrain --zzzzzz 3", "See `lwcl pretrain --help`."),
        ("pretrain --lr", "See `lwcl pretrain --help`."),
        ("pretrain photos", "Images are given as `--data photos`."),
        ("pretrain --fast-dev-run 0", "--fast-dev-run"),
        ("knn", "Missing argument 'ENCODER'"),
        ("list recips", "Did you mean recipes"),
        ("list archs mobilnetv3", "Did you mean"),
        ("pretrain --optimizer sdg", "Did you mean sgd?"),
        ("pretrain --seed -1", "at least 0"),
        ("knn runs/a --arch resnet81", "Did you mean resnet18"),
    ],
)
def test_every_usage_error_names_the_remedy(run, words, said, capsys):
    assert main.main(words.split()) == 2
    assert said in capsys.readouterr().err
    assert run.calls == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3))
def test_no_command_line_is_a_bug(words):
    assert main.main(["list", *words]) in (0, 2)


def test_a_list_is_one_json_document_on_stdout(capsys):
    assert main.main(["list", "recipes", "light", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 2
    assert document["recipes"][0]["name"] == "light"


def test_help_shows_the_dozen_flags_that_matter_and_help_all_every_one_with_an_example_a_group(capsys):
    assert main.main(["pretrain", "--help"]) == 0
    short = capsys.readouterr().out
    assert {"--data", "--arch", "--epochs", "--out", "--dry-run", "--help-all"} <= set(short.split())
    assert "--queue-size" not in short
    assert len(short.splitlines()) < 50
    assert main.main(["pretrain", "--help-all"]) == 0
    long = capsys.readouterr().out
    flags = {flag for param in main.PROGRAM.commands["pretrain"].params for flag in param.opts if flag.startswith("--")}
    assert all(flag.removeprefix("--") in long for flag in flags)
    examples = [line.split(maxsplit=1)[1] for line in long.splitlines() if line.startswith("  Example: --")]
    assert len(examples) == 9
    for example in examples:
        words = [word for word in example.split() if word.startswith("--")]
        assert set(words) <= flags, example


@pytest.mark.parametrize(("no_color", "bold"), [("", True), ("1", False)])
def test_headings_are_bold_on_a_terminal_unless_no_color_is_set(monkeypatch, no_color, bold):
    from lwcl.cli.help import bold_heading

    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(isatty=lambda: True))
    assert ("\x1b[1m" in bold_heading("Data")) == bold
