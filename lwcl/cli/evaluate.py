"""The commands that evaluate encoders: `knn`, `probe`, `diagnose-clustering`, `compare`."""

from typing import Annotated, Any

from typer import Argument, Option

from lwcl.cli.app import ConfigFile, Debug, Encoders, Json, Quiet, command, read_config_flag
from lwcl.cli.options import with_options
from lwcl.config.eval_options import DiagnoseOptions, KnnOptions, ProbeOptions
from lwcl.config.validation import S, parse_options
from lwcl.models.archs import check_arch
from lwcl.settings import expand_home


def evaluation_arguments(
    cls: type[S],
    /,
    encoders: Encoders,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> tuple[list[str], S, dict[str, bool]]:
    """The encoders, the options and the output flags of a command that evaluates. Raises `UsageError`."""
    options = parse_options(cls, chosen, *read_config_flag(config))
    for name in ("arch", "teacher_arch"):
        if (arch := getattr(options, name, None)) is not None:
            check_arch(arch)
    from lwcl.runs.guard import reject_run_folder  # PyYAML takes 20 ms

    reject_run_folder(getattr(options, "out", None))
    return encoders, options, {"as_json": as_json, "quiet": quiet}


@command("lwcl knn runs/mine --data labelled/", "knn")
@with_options(KnnOptions, flags=evaluation_arguments)
def knn_command(**words: Any) -> int:
    """Evaluate encoders by k-nearest-neighbour classification."""
    encoders, options, output = evaluation_arguments(KnnOptions, **words)
    from lwcl.commands.knn import run_knn

    return run_knn(encoders, options, **output)


@command("lwcl probe runs/mine --data labelled/", "probe")
@with_options(ProbeOptions, flags=evaluation_arguments)
def probe_command(**words: Any) -> int:
    """Evaluate encoders by a linear classifier on their features."""
    encoders, options, output = evaluation_arguments(ProbeOptions, **words)
    from lwcl.commands.probe import run_probe

    return run_probe(encoders, options, **output)


@command("lwcl diagnose-clustering runs/mine --data photos/", "diagnose-clustering")
@with_options(DiagnoseOptions, flags=evaluation_arguments)
def diagnose_command(**words: Any) -> int:
    """Diagnose how encoders cluster images, and advise: collapsed, over-clustered, under-trained or healthy.

    Labels are optional; with them the diagnosis says more.
    """
    encoders, options, output = evaluation_arguments(DiagnoseOptions, **words)
    from lwcl.commands.diagnose import run_diagnosis

    return run_diagnosis(encoders, options, **output)


@command("lwcl compare runs/mine runs/other", "compare")
def compare_command(
    runs: Annotated[list[str], Argument(metavar="RUN", help="folders of finished runs", callback=expand_home)],
    out: Annotated[
        str | None, Option("--out", metavar="TEXT", help="folder for a report [none]", callback=expand_home)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compare finished runs: scores, cost, settings that differ, curves."""
    from lwcl.commands.compare import compare_runs

    return compare_runs(runs, out=out, as_json=as_json, quiet=quiet)
