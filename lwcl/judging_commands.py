"""The commands that judge encoders: `knn`, `probe`, `diagnose-clustering`, `compare`."""

from typing import Annotated, Any

from typer import Argument, Option

from lwcl.app import Debug, Encoders, File, Json, Quiet, command, file_layer
from lwcl.catalogue import arch_named
from lwcl.chosen import settings_of
from lwcl.commands import DiagnoseOptions, KnnOptions, ProbeOptions
from lwcl.options import with_options


@command("lwcl knn runs/mine --data labelled/")
@with_options(KnnOptions)
def knn(
    encoders: Encoders,
    config: File = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> int:
    """Judge encoders by the labels of their nearest neighbours."""
    options = settings_of(KnnOptions, chosen, *file_layer(config))
    known_arch(options.arch)
    from lwcl import judge

    return judge.knn(encoders, options, as_json=as_json, quiet=quiet)


@command("lwcl probe runs/mine --data labelled/")
@with_options(ProbeOptions)
def probe(
    encoders: Encoders,
    config: File = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> int:
    """Judge encoders by a linear classifier of their features."""
    options = settings_of(ProbeOptions, chosen, *file_layer(config))
    known_arch(options.arch)
    from lwcl import probing

    return probing.probe(encoders, options, as_json=as_json, quiet=quiet)


@command("lwcl diagnose-clustering runs/mine --data photos/", "diagnose-clustering")
@with_options(DiagnoseOptions)
def diagnose(
    encoders: Encoders,
    config: File = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **chosen: Any,
) -> int:
    """Examine how encoders cluster images: collapsed, over-clustered, under-trained or healthy, and what to try.

    Labels are not needed; with them more can be told.
    """
    options = settings_of(DiagnoseOptions, chosen, *file_layer(config))
    known_arch(options.arch)
    from lwcl import diagnosis

    return diagnosis.diagnose(encoders, options, as_json=as_json, quiet=quiet)


@command("lwcl compare runs/mine runs/other")
def compare(
    runs: Annotated[list[str], Argument(metavar="RUN", help="folders of finished runs")],
    out: Annotated[str | None, Option("--out", metavar="TEXT", help="folder for a report [none]")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show finished runs side by side: scores, cost, settings that differ, curves."""
    from lwcl import comparison

    return comparison.compare(runs, out=out, as_json=as_json, quiet=quiet)


def known_arch(arch: str | None) -> None:
    """Raises `UsageError` for an architecture that timm does not have."""
    if arch is not None:
        arch_named(arch)
