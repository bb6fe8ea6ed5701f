"""The tables of `docs/evidence.md` from the rows of `benchmarks/evidence.py`."""

from collections.abc import Iterator
from typing import NamedTuple

from peer_ways.timed import Row, Rows, difference, percent, points


class Claim(NamedTuple):
    """What the papers or this package say: the first way is better than the second, by a measure."""

    says: str
    better: str
    worse: str
    measure: str = "right"  # kNN; or "probe_right", or "clusters"


CLAIMS = [
    Claim("the default leads light", "default", "light"),
    Claim("the default leads moco-v2", "default", "moco-v2"),
    Claim("light-moco: light leads MoCo v2", "light", "moco-v2"),
    Claim("ssl-small: its recipe leads MoCo v2", "ssl-small", "moco-v2"),
    Claim("ssl-small: after SEED it is better", "ssl-small after seed", "ssl-small"),
    Claim("ssl-small: MoCo's temperature is better at 0.1 than at 0.2", "moco-v2, T 0.1", "moco-v2"),
    Claim("the default's temperature is better at 0.2 than at 0.1", "default", "default, T 0.1"),
    Claim("SEED: distilled leads MoCo v2", "seed", "moco-v2"),
    Claim("distilled leads the default", "regression", "default"),
    Claim("DisCo leads SEED", "disco", "seed"),
    Claim("DisCo: a hidden width of 2048 leads 512", "disco", "disco, hidden 512"),
    Claim("CompRess: 1q leads 2q, linear probe", "1q", "2q", "probe_right"),
    Claim("CompRess: 2q leads 1q, cluster alignment", "2q", "1q", "clusters"),
    Claim("CompRess: temperature 0.04 leads 0.1 (2q)", "2q", "2q, T 0.1"),
    Claim("CompRess: 1q leads Reg-BN", "1q", "regression"),
    Claim("CompRess: Reg-BN leads unit length", "regression", "regression, linear, unit length"),
    Claim("SimReg leads Reg-BN", "SimReg (its head, unit length)", "regression"),
    Claim("a narrow head leads a linear one", "regression, narrow head", "regression"),
    Claim("the log-sum of 4th powers leads the mean square (Reg-BN)", "regression, log-sum", "regression"),
    Claim("SSLight: two local crops help (default)", "default, 2 local crops", "default"),
    Claim("SSLight: four local crops help (default)", "default, 4 local crops", "default"),
    Claim("SSLight: local crops help (light)", "light, 4 local crops", "light"),
    Claim("MSF leads MoCo v2", "msf", "moco-v2"),
    Claim("ISD leads MoCo v2", "isd", "moco-v2"),
    Claim("SwAV leads MoCo v2", "swav", "moco-v2"),
]

Work = tuple[str, float, int, int]  # set, minutes, CPUs, seed


def markdown(rows: Rows, order: list[str]) -> Iterator[str]:
    """A part for each set, budget, number of CPUs and seed: kNN of all nets, the claims, and a table of each net."""
    works = dict.fromkeys((r["set"], r["minutes"], r["cpus"], r["seed"]) for r in rows.rows if r["minutes"])
    for place, work in enumerate(sorted(works, key=lambda one: (one[0] != "imagenette", *one))):
        name, minutes, cpus, seed = work
        yield from ([""] if place else [])
        yield f"### {name}, {minutes:g} minutes on {'one core' if cpus == 1 else f'{cpus} cores'}" + (
            f", seed {seed}" if seed else ""
        )
        yield ""
        own = (r for r in rows.rows if (r["set"], r["minutes"], r["cpus"], r["seed"]) == work)
        nets = list(dict.fromkeys(r["arch"] for r in own))
        told = list(claims(rows, work, nets))
        yield from told
        for number, net in enumerate(nets):
            yield from ([""] if told or number else [])
            yield from details(rows, work, net, order)


def found(rows: Rows, work: Work, net: str, way: str) -> Row | None:
    """The row of a way."""
    name, minutes, cpus, seed = work
    minutes = 0 if way == "untrained" else minutes
    return rows.find(set=name, minutes=minutes, cpus=cpus, seed=seed, arch=net, way=way)


def claims(rows: Rows, work: Work, nets: list[str]) -> Iterator[str]:
    """For each claim the difference on each net, points; bold where its interval does not hold 0."""
    lines = []
    for claim in CLAIMS:
        pairs = [(found(rows, work, net, claim.better), found(rows, work, net, claim.worse)) for net in nets]
        told = [compared(*pair, claim.measure) if pair[0] and pair[1] else "" for pair in pairs]
        if any(told):
            lines.append(f"| {claim.says} | {' | '.join(told)} |")
    if lines:
        yield f"| Claim | {' | '.join(map(short, nets))} |"
        yield "|---|" + "---|" * len(nets)
        yield from lines


def compared(better: Row | None, worse: Row | None, measure: str) -> str:
    """A difference; cluster alignment has no pairs of answers, so no interval."""
    assert better and worse
    if measure == "clusters":
        return f"{100 * (better['clusters'] - worse['clusters']):+.1f}"
    return points(difference(better, worse, measure))


def short(net: str) -> str:
    """A net's name without its size and width."""
    return net.split("_patch")[0].removesuffix("_100")


def details(rows: Rows, work: Work, net: str, order: list[str]) -> Iterator[str]:
    """All that was measured of a net, a line for each way."""
    untrained = found(rows, work, net, "untrained")
    yield f"| {short(net)} | kNN, % | Gain, points | Linear probe, % | Clusters, % | Rank | Steps | Images/s | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for way in order:
        row = found(rows, work, net, way)
        if row is None:
            continue
        gain = points(difference(row, untrained)) if untrained and row["minutes"] else ""
        probe = percent(row["probe"], row["probe_interval"])
        speed = f"{row['steps']} | {row['images_per_second']:.0f} | {row['cpu_s']:.0f}" if row["minutes"] else " | | "
        scores = f"{percent(row['top1'], row['top1_interval'])} | {gain} | {probe} | {100 * row['clusters']:.1f}"
        yield f"| {way} | {scores} | {row['rank']:.0f} | {speed} |"
