"""The campaign: what lwcl promises for when things go wrong, each promise tried many times.

    python tests/campaign/run.py OUT [--only kills damage T9] [--cases 5] [--table]

Results are kept in OUT/results, a line a case: a campaign that was stopped goes on. It prints, and writes to
OUT/table.md, each promise with how often it was tried and how often it held, then the cases that broke it, whose
folders stay in OUT/scratch. All of it takes about two hours of one core. As root it also fills real disks (tmpfs).
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
MODULES = ("hostile", "damage", "kills", "steps", "groups", "full_disk", "fuzz", "promises")


def main() -> None:
    """Tries, and writes the table."""
    import torch
    from trials import TRIALS, run_trial, table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=(), help="trials, by module or number")
    parser.add_argument("--cases", type=int, help="of each trial, at most")
    parser.add_argument("--table", action="store_true", help="try nothing, print the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in MODULES:
        importlib.import_module(module)
    for one in TRIALS:
        if given.table or not (not given.only or {one.number, one.work.__module__} & set(given.only)):
            continue
        begun = time.monotonic()
        rows = list(run_trial(one, given.out.absolute(), given.cases))
        tried, held = (sum(row[name] for row in rows) for name in ("tried", "held"))
        print(f"{one.number}: {held:,} of {tried:,} held, {time.monotonic() - begun:.0f} s. {one.promise}", flush=True)
        for row in rows:
            if "why" in row:
                print(f"  case {row['case']}: {row['why']}", flush=True)
    (given.out / "table.md").write_text(table(given.out))
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    main()
