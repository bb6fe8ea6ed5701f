"""The texts: that their commands parse, their Python compiles or runs, their links lead somewhere; tables are current.

`LWCL_UPDATE_GOLDEN=1 pytest tests/test_docs.py` writes the tables of docs/recipes.md anew.
"""

import ast
import functools
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lwcl.cli import main
from lwcl.config.augmentation import AUGMENTATIONS, Augmentation
from lwcl.config.auto import RunFacts, resolve_plan
from lwcl.config.eval_options import DiagnoseOptions, KnnOptions, ProbeOptions
from lwcl.config.plan import plan_pretrain, plan_run
from lwcl.config.recipes import DEMO_OVERRIDES, LIGHT_RECONSTRUCTED, LIGHT_RUN, RECIPES, SMALL_DATA_OVERRIDES
from lwcl.config.train_options import TRAIN_OPTIONS
from lwcl.config.validation import parse_options
from lwcl.errors import DataError, LwclError, StorageError, TrainingDivergedError, UsageError
from lwcl.methods.method import methods
from lwcl.settings import field_names, flag_name

ROOT = Path(__file__).parents[1]
TEXTS = {str(path.relative_to(ROOT)): path for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")))}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTLERS = {
    **{command: functools.partial(plan_run, command) for command in TRAIN_OPTIONS},
    "knn": functools.partial(parse_options, KnnOptions),
    "probe": functools.partial(parse_options, ProbeOptions),
    "diagnose-clustering": functools.partial(parse_options, DiagnoseOptions),
}
PUBLISHED = {
    "--mlp",
    "--aug-plus",
    "--cos",
    "--moco-t",
    "--only-mse",
    "--student_mlp",
}  # flags of the papers' code, in the sources of numbers
OWN = {"config", "dry_run", "fast_dev_run", "as_json", "quiet", "debug", "help_all", "encoders", "what", "pattern"}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a language in all texts: (text, block)."""
    for name, path in TEXTS.items():
        for found in FENCE.finditer(path.read_text(encoding="utf-8")):
            if found[1] == language:
                yield name, found[2]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of lwcl in the shell blocks: (text, words after `lwcl`)."""
    for name, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[|;]", line):
                words = shlex.split(part, comments=True)
                if words and words[0].rpartition("/")[2] == "lwcl":
                    yield name, words[1:]


COMMANDS = sorted({(name, shlex.join(words)) for name, words in commands()})


@pytest.mark.parametrize(("text", "line"), COMMANDS)
def test_every_command_in_the_texts_parses_and_its_settings_settle(text, line):
    words = [word if word != "COMMAND" else "pretrain" for word in shlex.split(line)]
    with main.PROGRAM.make_context("lwcl", words[:1]) as above:
        context = main.PROGRAM.commands[words[0]].make_context(words[0], words[1:], parent=above)
    chosen = {name: value for name, value in context.params.items() if name not in OWN}
    if words[0] in SETTLERS:
        SETTLERS[words[0]](chosen)


def test_the_readme_has_commands_and_its_first_is_the_main_job():
    lines = [line for text, line in COMMANDS if text == "README.md"]
    assert "pretrain --arch efficientnet_b0" in lines
    first = next(block for name, block in blocks("sh") if name == "README.md")
    assert first == (
        "python -m venv .venv && .venv/bin/pip install . && .venv/bin/lwcl pretrain --arch efficientnet_b0\n"
    )


def test_the_readme_names_every_command_and_recipe_and_nothing_else():
    text = TEXTS["README.md"].read_text(encoding="utf-8")
    assert re.findall(r"^\| `lwcl (\S+)` \|", text, re.MULTILINE) == list(main.PROGRAM.commands)
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == set(RECIPES)


@pytest.mark.parametrize("name", TEXTS)
def test_flags_that_texts_mention_exist(name):
    known = {
        flag
        for command in main.PROGRAM.commands.values()
        for param in command.params
        for flag in (*param.opts, *param.secondary_opts)
    }
    known |= {"--help", "--version", "--install-completion", "--show-completion"}
    known |= {
        "--shm-size",
        "--max-restarts",
        "--nproc-per-node",
        "--signal",
        "--cpus-per-task",
    }  # of docker, torchrun and SLURM
    scripts = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "tests/campaign/run.py"]
    known |= {flag for script in scripts for flag in re.findall(r'"(--[a-z][a-z-]+)"', script.read_text())}
    text = TEXTS[name].read_text(encoding="utf-8").replace("--[no-]", "--")
    others = r"^(python|bash|docker|torchrun|#SBATCH|srun|sbatch|\.venv/bin/(?!lwcl)).*$"
    ours = re.sub(others, "", text, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", ours)) <= known | PUBLISHED


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for target in LINK.findall(TEXTS[name].read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if not target.startswith("https://"):
            place = TEXTS[name].parent / path if path else TEXTS[name]
            assert place.exists(), target
            heads = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("text", "block"), list(blocks("python")))
def test_python_in_the_texts_compiles_and_imports_what_exists(text, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lwcl"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("heading", ["Compute features", "Evaluate features"])
def test_python_that_needs_no_run_runs(heading):
    text = TEXTS["docs/python.md"].read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    exec(FENCE.search(text)[2], {})  # noqa: S102  # our own text


def test_the_python_page_shows_what_a_plan_says():
    plan = plan_pretrain({"data": ["photos/"], "arch": "resnet18", "epochs": 50, "out": "runs/mine"})
    line = f'print(plan.values["temperature"])  # {plan.values["temperature"]}'
    assert line in TEXTS["docs/python.md"].read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [UsageError, TrainingDivergedError, DataError, StorageError, LwclError])
def test_the_exit_codes_are_those_of_the_errors(error):
    rows = re.findall(r"^\| (\d+) \| (\w+)", TEXTS["docs/reliability.md"].read_text(encoding="utf-8"), re.MULTILINE)
    words = {
        UsageError: "usage",
        TrainingDivergedError: "training",
        DataError: "data",
        StorageError: "storage",
        LwclError: "a",
    }
    assert (str(error.exit_code), words[error]) in rows


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def head(*titles: str) -> str:
    """The first two rows of a Markdown table."""
    return row(*titles) + "|" + "---|" * len(titles) + "\n"


def value_text(value: object) -> str:
    """A setting's value in a table."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def recipe_table(name: str) -> str:
    """A recipe's settings with their sources, and the method's settings that it leaves as they are."""
    published = RECIPES[name]
    lines = [f"### {name}\n\n{published.about[0].upper()}{published.about[1:]}. Method: `{published.method}`.\n\n"]
    lines.append(head("Setting", "Value", "", "Source"))
    layers = {"": published.settings, **{f" for {arch}": settings for arch, settings in published.archs.items()}}
    for where, settings in layers.items():
        for key, cited in settings.items():
            mark = "?" if cited.source.startswith((LIGHT_RECONSTRUCTED, LIGHT_RUN)) else ""
            lines.append(row(f"`{flag_name(key)}`{where}", value_text(cited.value), mark, cited.source))
    kind = methods()[published.method]
    rest = {key: vars(kind)["__dataclass_fields__"][key].default for key in field_names(kind)}
    own = [
        f"`{flag_name(key)}` {value_text(value)}"
        for key, value in rest.items()
        if key not in published.settings and value is not None
    ]
    if own:
        lines.append(f"\nThe method's defaults for the rest: {', '.join(own)}.\n")
    return "".join(lines)


def augmentation_table() -> str:
    """The named augmentations side by side."""
    lines = [head("Setting", *(f"`{name}`" for name in AUGMENTATIONS))]
    unchanged = {
        field: vars(Augmentation)["__dataclass_fields__"][field].default for field in field_names(Augmentation)
    }
    for field, default in unchanged.items():
        lines.append(row(f"`{flag_name(field)}`", *(f"{v.get(field, default):.4g}" for v in AUGMENTATIONS.values())))
    return "".join(lines)


SIZES = {
    "the textures, 2 CPUs": RunFacts(3000, 64, 2, False, demo=True),
    "10,000 photos, 8 CPUs": RunFacts(10_000, 480, 8, False),
    "1,281,167 photos, a GPU": RunFacts(1_281_167, 375, 16, True),
}


def rules_table() -> str:
    """The automatic settings for data sets of three sizes, and the reasons in the words of the program."""
    configs = {title: resolve_plan(plan_pretrain({}), facts).values for title, facts in SIZES.items()}
    every = {name: values[name] for values in configs.values() for name in values}
    names = [name for name in every if any(v[name].origin.is_automatic for v in configs.values() if name in v)]
    lines = [head("Setting", *SIZES)]
    for name in names:
        cells = (value_text(values[name].value) if name in values else "-" for values in configs.values())
        lines.append(row(f"`{flag_name(name)}`", *cells))
    lines.append("\nThe reasons, for the 10,000 photos, or else for ImageNet:\n\n")
    small, large = configs["10,000 photos, 8 CPUs"], configs["1,281,167 photos, a GPU"]
    for name in names:
        value = next(v[name] for v in (small, large, *configs.values()) if name in v and v[name].origin.is_automatic)
        lines.append(f"* `{flag_name(name)}` {value_text(value.value)} ({value.origin})\n")
    return "".join(lines)


def few_table() -> str:
    """What the recipes of each command change for few images."""
    cited = {name: entry for changes in SMALL_DATA_OVERRIDES.values() for name, entry in changes.items()}
    lines = [head("Setting", "Value", "Commands", "Source")]
    for name, entry in cited.items():
        commands = ", ".join(command for command, changes in SMALL_DATA_OVERRIDES.items() if name in changes)
        lines.append(row(f"`{flag_name(name)}`", value_text(entry.value), commands, entry.source))
    for name, entry in DEMO_OVERRIDES.items():
        lines.append(row(f"`{flag_name(name)}`", value_text(entry.value), "on built-in data sets", entry.source))
    return "".join(lines)


TABLES = {
    "few": few_table,
    "recipes": lambda: "\n".join(recipe_table(name) for name in RECIPES),
    "augmentations": augmentation_table,
    "rules": rules_table,
}


def test_the_page_of_recipes_is_current():
    path = TEXTS["docs/recipes.md"]
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table()}\n{end}{rest.partition(end)[2]}"
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path} is old: run the tests with LWCL_UPDATE_GOLDEN=1"


def example(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    """Runs an example in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 images of noise in a folder without classes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_the_first_examples_train_on_photos_and_find_a_photo_again(photos, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    example(monkeypatch, "photos_to_encoder.py", photos, "--arch", "test_efficientnet", "--epochs", 1, "--out", out)
    assert "gives 256 features" in capsys.readouterr().out
    example(monkeypatch, "nearest_images.py", out / "export", photos, photos / "07.png", "--count", 3)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.split() == ["1.000", str(photos / "07.png")]
    assert len(others) == 2


def test_the_four_commands_from_photos_to_an_int8_file_run_as_they_stand(photos, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    block = TEXTS["README.md"].read_text(encoding="utf-8").partition("in four commands:")[2]
    install, *lines = block.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert install.startswith("pip install '.[export]'")
    for name in ("cat", "dog"):
        shutil.copytree(photos, tmp_path / "labelled" / name)
    monkeypatch.chdir(tmp_path)
    small = ["--arch", "test_efficientnet", "--image-size", "32", "--fast-dev-run", "2", "--threads", "1"]
    for line in lines:
        _, *words = shlex.split(line, comments=True)
        assert main.main([*words, *(small if words[0] == "pretrain" else [])]) == 0
    assert (tmp_path / "runs/mine/export/model-int8.onnx").exists()
    assert "model-int8.onnx" in capsys.readouterr().out


def test_a_method_of_ones_own_is_trained_like_the_others(photos, tmp_path):
    words = ["--data", str(photos), "--arch", "test_efficientnet", "--dim", "16", "--local-crops", "2"]
    words += ["--fast-dev-run", "2", "--out", "own"]
    done = subprocess.run(  # in a process of its own, since it registers a method
        [sys.executable, str(ROOT / "examples/own_method.py"), *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own/export/model.safetensors").exists()
    assert "byol" in (tmp_path / "own/report.html").read_text(encoding="utf-8")
