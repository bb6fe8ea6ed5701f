"""A first stage of a run: a few epochs of learning from a teacher, before a method that has none.

ssl-small (arXiv 2107.14762) starts from a SEED student of two epochs; its queue and head are not taken over here.
"""

from pathlib import Path

from lwcl.config.plan import Plan, plan_run
from lwcl.config.teacher_options import parse_init_by
from lwcl.config.train_options import PretrainOptions, TrainOptions
from lwcl.methods.method import METHODS
from lwcl.settings import DEFAULT, field_names

#: Settings that the first stage does not take over from the run.
NOT_INHERITED = frozenset(
    {"recipe", "method", "augmentation", "init", "init_head", "out", "resume", "overwrite", "monitor"}
)


def plan_first_stage(plan: Plan, out: Path) -> Plan | None:
    """The plan of the stage that `--init-by` asks for, in the folder `out`; None where none is asked for."""
    options = plan.options
    if not isinstance(options, PretrainOptions) or not options.init_by:
        return None
    stage = parse_init_by(options.init_by)
    shared = (name for name in field_names(TrainOptions) if name not in NOT_INHERITED)
    chosen = {name: plan.values[name].value for name in shared if plan.values[name].origin is not DEFAULT}
    chosen |= {"method": stage.method, "epochs": stage.epochs, "out": str(out)}
    return plan_run(METHODS[stage.method].verb, chosen)
