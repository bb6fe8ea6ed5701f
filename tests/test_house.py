"""The house: which way imports go, how large things are, and what must not be in the code; read from the source."""

import ast
import collections
import io
import itertools
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwcl.config.augmentation import Augmentation
from lwcl.config.recipes import RECIPES, Optimization
from lwcl.config.train_options import TrainOptions
from lwcl.methods.method import methods
from lwcl.settings import field_names

PACKAGE = Path(__file__).parents[1] / "lwcl"
PATHS = {".".join(("lwcl", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in PATHS.items()}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

LINES, FUNCTION_LINES, RUN = 300, 50, 6
HEAVY = {"torch", "torchvision", "timm", "numpy", "PIL", "sklearn", "scipy", "matplotlib", "safetensors", "rich"}
HEAVY |= {"yaml", "jinja2", "huggingface_hub"}
SPEAKING = {
    "lwcl.cli.app",
    "lwcl.cli.main",
    "lwcl.cli.tools",
    "lwcl.reporting.report",
    "lwcl.reporting.console",
    "lwcl.reporting.panel",
}
EMPTY_NAMES = {"utils", "util", "common", "helper", "helpers", "base", "misc", "trainer", "manager"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that are made when a module is imported: not those in functions, nor those for type checkers."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            typing_only = "TYPE_CHECKING" in ast.unparse(node.test)
            yield from at_import([*([] if typing_only else node.body), *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from at_import(node.body)


def names_imported(nodes: Iterator[ast.Import | ast.ImportFrom]) -> set[str]:
    """Full names of what is imported; `from a import b` is both `a` and `a.b`."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.module, "imports are absolute"
            assert not node.level, "imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTED = {name: names_imported(at_import(tree.body)) for name, tree in TREES.items()}


def reached(module: str) -> set[str]:
    """Every module of the package that importing `module` imports, itself too."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [other for other in IMPORTED[name] if other in MODULES]
    return found


def within(names: set[str], beginnings: tuple[str, ...]) -> set[str]:
    """Those of `names` that begin so, at a dot or the end."""
    return {name for name in names if any(name == b or name.startswith(b.rstrip(".") + ".") for b in beginnings)}


def nodes(kind: type | tuple[type, ...]) -> list[tuple[str, ast.AST]]:
    """All nodes of a kind, with their modules."""
    return [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def calls() -> list[tuple[str, str, ast.Call]]:
    """All calls: module, what is called as it is written, the call."""
    return [(name, ast.unparse(node.func), node) for name, node in nodes(ast.Call)]


def keyword(call: ast.Call, name: str) -> str:
    """The value of a keyword argument as it is written, "" where it is not given."""
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), "")


def test_imports_never_go_round_in_circles():
    for module in MODULES:
        below = {deeper for name in IMPORTED[module] if name in MODULES and name != module for deeper in reached(name)}
        assert module not in below


def layers() -> list[tuple[set[str], bool]]:
    """The rows of the picture in ARCHITECTURE.md, the highest first: names in `lwcl`, whether they need no torch."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text.partition("## Layers")[2].partition("```text\n")[2].partition("```")[0].splitlines()
    return [(set(row.partition("  ")[0].split()), row.endswith("no torch")) for row in rows]


def layer_of(module: str) -> int:
    """The row that a module's folder, or the module at the top, stands in; `__main__` is the command line's."""
    name = {"lwcl": "lwcl.errors", "lwcl.__main__": "lwcl.cli"}.get(module, module).split(".")[1]
    places = [number for number, (names, _) in enumerate(layers()) if name in names]
    assert places, f"{module} needs a layer in ARCHITECTURE.md"
    return places[0]


def every_import(module: str) -> set[str]:
    """What a module imports anywhere: in functions, for type checkers, at first use (`Lazy`)."""
    names = names_imported(node for node in ast.walk(TREES[module]) if isinstance(node, ast.Import | ast.ImportFrom))
    text = MODULES[module].read_text(encoding="utf-8")
    return (names | set(re.findall(r'Lazy\(f?"(lwcl[\w.]*)', text))) & set(MODULES)


def test_no_import_runs_up() -> None:
    upwards = [(a, b) for a in MODULES for b in every_import(a) if b != "lwcl" and layer_of(b) < layer_of(a)]
    assert upwards == []
    named = {name for names, _ in layers() for name in names}
    assert named == {name.split(".")[1] for name in MODULES if "." in name} - {"__main__"}


#: Names that several modules may define, and why.
SHARED_NAMES: dict[str, str] = {}


def test_no_public_name_is_defined_in_two_modules() -> None:
    homes = collections.defaultdict(set)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(module)
    assert {name: places for name, places in homes.items() if len(places) > 1 and name not in SHARED_NAMES} == {}


def test_layers_without_torch_need_none() -> None:
    for module in (name for name in MODULES if layers()[layer_of(name)][1]):
        deeper = {name.partition(".")[0] for other in reached(module) for name in IMPORTED[other]}
        assert not deeper & {"torch", "torchvision", "timm"}, module


def test_what_parses_a_command_line_imports_nothing_heavy_by_its_source():
    parsing = reached("lwcl.cli.main").union(*(reached(name) for name in MODULES if name.startswith("lwcl.methods.")))
    assert "lwcl.config.plan" in parsing
    for module in parsing:
        assert not {name.partition(".")[0] for name in IMPORTED[module]} & HEAVY, module


def test_what_parses_a_command_line_imports_nothing_heavy_in_fact():
    program = (
        "import sys; from lwcl.cli import main as cli; from lwcl.config.plan import plan_pretrain;"
        "plan_pretrain({'epochs': '3'});"
        "assert cli.main(['pretrain', '--help']) == 0; assert cli.main(['pretrain', '--epochs', 'x']) == 2;"
        f"print('heavy:', sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_only_what_is_made_for_it_prints():
    prints = {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
    assert {module for module, called, _ in calls() if called in prints} <= SPEAKING


@pytest.mark.parametrize("module", MODULES)
def test_a_file_fits_in_the_head(module):
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") <= LINES
    assert ast.get_docstring(TREES[module]), "its docstring says what it is"


def test_a_function_fits_on_a_screen():
    functions = nodes((ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {f"{module}:{node.name}": node.end_lineno - node.lineno + 1 for module, node in functions}
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 10, "half of them have ten lines or fewer"


def code_lines(module: str) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers: no comments, docstrings, imports, lone brackets."""
    text = MODULES[module].read_text(encoding="utf-8")
    kept: dict[int, list[str]] = collections.defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            kept[token.start[0]].append(token.string)
    for node in ast.walk(TREES[module]):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            for line in range(node.lineno, node.end_lineno + 1):
                kept.pop(line, None)
    lines = [(number, " ".join(words)) for number, words in sorted(kept.items())]
    return [(number, text) for number, text in lines if set(text) - set("()[]{},: ")]


def test_nothing_is_written_twice():
    places = collections.defaultdict(list)
    for module in MODULES:
        lines = code_lines(module)
        for start in range(len(lines) - RUN + 1):
            run = lines[start : start + RUN]
            places[tuple(text for _, text in run)].append(f"{module}:{run[0][0]}")
    assert [where for where in places.values() if len(where) > 1] == []


def test_files_are_named_by_what_they_hold():
    assert not {name for name in MODULES if name.rpartition(".")[2] in EMPTY_NAMES}


def test_exactly_one_place_goes_backward():
    assert [module for module, called, _ in calls() if called.endswith(".backward")] == ["lwcl.engine"]


def test_nothing_unpickles_or_runs_text():
    imports = [(module, names_imported(iter([node]))) for module, node in nodes((ast.Import, ast.ImportFrom))]
    assert not {module for module, names in imports if {name.partition(".")[0] for name in names} & PICKLES}
    forbidden = {"eval", "exec", "os.system", "os.popen", "torch.hub.load", "torch.export.load", "torch.jit.load"}
    assert not {(module, called) for module, called, _ in calls() if called in forbidden}
    assert all(keyword(call, "shell") in ("", "False") for _, _, call in calls())


def test_files_are_read_in_ways_that_run_nothing():
    loads = [(module, call) for module, called, call in calls() if called == "torch.load"]
    assert len({module for module, _ in loads}) <= 1
    assert all(keyword(call, "weights_only") == "True" for _, call in loads)
    arrays = [call for _, called, call in calls() if called in ("np.load", "numpy.load")]
    assert all(keyword(call, "allow_pickle") == "False" for call in arrays)
    yaml = {(module, called) for module, called, _ in calls() if called.startswith("yaml.") and "load" in called}
    assert {module for module, called in yaml if called != "yaml.safe_load"} <= {"lwcl.config.yaml_file"}


def test_the_one_yaml_loader_of_our_own_is_a_safe_one():
    import yaml

    from lwcl.config.yaml_file import ConfigLoader

    assert issubclass(ConfigLoader, yaml.SafeLoader)
    assert ConfigLoader.yaml_constructors == yaml.SafeLoader.yaml_constructors


def public_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions, and methods of public classes, that have no underscore; not those within functions."""
    for module, tree in TREES.items():
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        for node in itertools.chain(tree.body, *(one.body for one in classes)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{module}:{node.lineno} {node.name}", node


def test_every_public_function_and_class_has_a_docstring():
    silent = [name for name, node in public_functions() if not ast.get_docstring(node)]
    classes = [(module, node) for module, node in nodes(ast.ClassDef) if not node.name.startswith("_")]
    silent += [f"{module}:{node.name}" for module, node in classes if not ast.get_docstring(node)]
    assert silent == []


def test_every_public_function_is_annotated():
    def untyped(node: ast.FunctionDef) -> bool:
        args = node.args
        given = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
        return node.returns is None or any(a.annotation is None for a in given if a.arg not in ("self", "cls"))

    assert [name for name, node in public_functions() if untyped(node)] == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_recipe_is_a_setting_and_has_a_source(name):
    published = RECIPES[name]
    known = {
        "augmentation",
        *field_names(TrainOptions),
        *field_names(Optimization),
        *field_names(Augmentation),
        *field_names(methods()[published.method]),
    }
    for layer in (published.settings, *published.archs.values()):
        assert set(layer) <= known
        assert all(len(cited.source.split()) >= 2 for cited in layer.values())
