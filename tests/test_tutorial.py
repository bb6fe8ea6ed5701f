"""docs/tutorial.md: its commands and its Python run from top to bottom, as they stand and, often, shortened.

`LWCL_UPDATE_GOLDEN=1 pytest tests/test_tutorial.py` writes docs/tutorial.ipynb anew from the page.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import ran

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
#: What is shortened when the page is not run as it stands.
SHORTER = {
    "EVERY = 5": "EVERY = 60",
    "mobilenetv3_small_050": "test_efficientnet",
    "mobilenetv3_small_100": "test_efficientnet",
    "--epochs 20": "--epochs 1 --fast-dev-run 2 --batch-size 8 --quiet",
    "--data textures": "--data photos/",
    "--epochs 4": "--epochs 1 --fast-dev-run 2 --batch-size 8 --quiet",
}


def cells(page: str) -> Iterator[tuple[str, str]]:
    """The parts of a page in order: (markdown, sh or python; its text)."""
    end = 0
    for fence in FENCE.finditer(page):
        yield "markdown", page[end : fence.start()]
        yield fence[1], fence[2]
        end = fence.end()
    yield "markdown", page[end:]


def notebook(page: str) -> dict[str, Any]:
    """A page as a Jupyter notebook, whose shell commands begin with `!`."""
    made = []
    for number, (kind, text) in enumerate(cells(page)):
        lines = text.strip("\n").splitlines(keepends=True)
        if kind == "markdown":
            if lines:
                made.append({"cell_type": "markdown", "id": f"{number:02}", "metadata": {}, "source": lines})
            continue
        source = [f"!{line}" for line in lines] if kind == "sh" else lines
        empty: dict[str, Any] = {"execution_count": None, "metadata": {}, "outputs": []}
        made.append({"cell_type": "code", "id": f"{number:02}", **empty, "source": source})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def test_the_page_runs_from_top_to_bottom_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for long, short in SHORTER.items():
        assert long in page
        page = page.replace(long, short)
    monkeypatch.chdir(tmp_path)
    for kind, text in cells(page):
        if kind == "python":
            (tmp_path / "part.py").write_text(text)
            runpy.run_path(str(tmp_path / "part.py"))
        for line in text.splitlines() if kind == "sh" else ():
            assert ran(shlex.split(line)[1:]) == 0, line
    assert (tmp_path / "runs/small/export/model-int8.onnx").exists()


def test_the_notebook_is_the_page() -> None:
    path = DOCS / "tutorial.ipynb"
    text = json.dumps(notebook((DOCS / "tutorial.md").read_text(encoding="utf-8")), indent=1) + "\n"
    if os.environ.get("LWCL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path} is old: run this file with LWCL_UPDATE_GOLDEN=1"


def test_the_pictures_of_the_page_are_there_and_small() -> None:
    named = re.findall(r"\]\((pictures/[^)]+)\)", (DOCS / "tutorial.md").read_text(encoding="utf-8"))
    sizes = {name: (DOCS / name).stat().st_size for name in named}
    assert sizes and max(sizes.values()) < 200_000, sizes


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_notebook_runs_from_top_to_bottom_as_it_stands(tmp_path: Path) -> None:
    code = []
    for cell in json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]:
        for line in cell["source"] if cell["cell_type"] == "code" else ():
            command = re.sub("^!lwcl", f"{sys.executable} -m lwcl", line.rstrip("\n"))
            shell = f"subprocess.run({command!r}, shell=True, check=True)\n"
            code.append(shell if line.startswith("!") else line.rstrip("\n") + "\n")
    script = tmp_path / "notebook.py"
    script.write_text("import subprocess\n" + "".join(code))
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    assert subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment).returncode == 0
