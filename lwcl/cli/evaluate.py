"""The commands that judge encoders: `knn`, `probe`, `diagnose-clustering`, `compare`."""

import importlib
from typing import Annotated, Any

from typer import Argument, Option

from lwcl.cli.app import ConfigFile, Debug, Encoders, Json, Quiet, app, command, read_config_flag
from lwcl.cli.options import with_options
from lwcl.config.eval_options import DiagnoseOptions, KnnOptions, ProbeOptions
from lwcl.config.validation import parse_options
from lwcl.models.archs import check_arch
from lwcl.settings import Settings


def register_evaluation(name: str, kind: type[Settings], module: str, function: str, about: str) -> None:
    """Registers a command that judges encoders as `kind` says, by a function of a module of lwcl."""

    @command(f"lwcl {name} runs/mine --data {'photos' if kind is DiagnoseOptions else 'labelled'}/", name)
    @with_options(kind)
    def judge(
        encoders: Encoders,
        config: ConfigFile = None,
        as_json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
        **chosen: Any,
    ) -> int:
        options: Any = parse_options(kind, chosen, *read_config_flag(config))
        for arch in (options.arch, getattr(options, "teacher_arch", None)):
            if arch is not None:
                check_arch(arch)
        from lwcl.runs.guard import reject_run_folder  # PyYAML takes 20 ms

        reject_run_folder(options.out)
        run = getattr(importlib.import_module(f"lwcl.{module}"), function)
        return int(run(encoders, options, as_json=as_json, quiet=quiet))

    app.registered_commands[-1].help = about


register_evaluation(
    "knn", KnnOptions, "commands.knn", "run_knn", "Judge encoders by the labels of their nearest neighbours."
)
register_evaluation(
    "probe", ProbeOptions, "commands.probe", "run_probe", "Judge encoders by a linear classifier of their features."
)
register_evaluation(
    "diagnose-clustering",
    DiagnoseOptions,
    "commands.diagnose",
    "run_diagnosis",
    "Examine how encoders cluster images, and what to try: collapsed, over-clustered, under-trained or healthy.\n\n"
    "Labels are not needed; with them more can be told.",
)


@command("lwcl compare runs/mine runs/other")
def compare(
    runs: Annotated[list[str], Argument(metavar="RUN", help="folders of finished runs")],
    out: Annotated[str | None, Option("--out", metavar="TEXT", help="folder for a report [none]")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show finished runs side by side: scores, cost, settings that differ, curves."""
    from lwcl.commands import compare

    return compare.compare_runs(runs, out=out, as_json=as_json, quiet=quiet)
