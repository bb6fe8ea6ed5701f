"""The Dockerfile, as far as it can be checked without a daemon: what it copies, installs and runs as."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert all((ROOT / source).exists() and f"!{source}" in ignored for source in sources)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {build["readme"], *build["license-files"], "pyproject.toml", "lwcl"} == {*sources}


def test_the_extras_and_the_versions_of_torch_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = next(line.partition("=")[2] for line in instructions("ARG") if line.startswith("EXTRAS"))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    wanted = re.findall(r'"((?:torch|torchvision)>=[\d.]+)"', " ".join(instructions("RUN")))
    assert wanted and set(wanted) <= set(project["dependencies"])
    assert project["requires-python"] == ">=3.11" and "PYTHON=3.11" in instructions("ARG")


def test_it_runs_as_an_ordinary_user_who_writes_only_where_it_is_said() -> None:
    assert instructions("USER") == ["lwcl"]
    settings = dict(pair.split("=", 1) for pair in " ".join(instructions("ENV")).split())
    assert settings["LWCL_CACHE"].startswith("/out/") and settings["MPLCONFIGDIR"] == "/tmp"  # noqa: S108
    assert instructions("ENTRYPOINT") == ['["lwcl"]']
