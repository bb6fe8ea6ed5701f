"""What is settled once the images and the machine are known: the rules, and a precision that is worth it."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy

from lwcl.config import auto
from lwcl.config.plan import Plan
from lwcl.data.dataset import ImageSet
from lwcl.data.demo import builtin
from lwcl.errors import UsageError
from lwcl.kernels import bfloat16
from lwcl.reporting.console import Screen
from lwcl.settings import RESUMED, SettingValue
from lwcl.system.device import resolve_device
from lwcl.system.limits import usable_cpus
from lwcl.training.build import build_net
from lwcl.training.precision import choose_precision, precision_without_timing
from lwcl.training.teacher import load_teacher

SIZE_SAMPLE = 64  # images whose size stands for all


def resolve_auto(plan: Plan, images: ImageSet) -> Plan:
    """The plan with everything that depends on the data and the machine settled by the rules.

    Raises `UsageError` where views are to be made by OpenCV and cannot be.
    """
    demonstration = set(plan.options.data) <= set(builtin.BUILTIN_SETS)
    plan = plan.at_scale(len(images), demonstration=demonstration)
    values = {name: setting.value for name, setting in plan.settled.items()}
    accelerated = resolve_device(plan.options.device).type != "cpu"
    facts = auto.RunFacts(
        len(images),
        median_short_side(images),
        usable_cpus(),
        accelerated,
        demonstration,
        opencv=has_opencv(),
        slow_bf16=not accelerated and not bfloat16.bf16_is_native(),
    )
    plan = plan.with_rules(auto.apply_rules(values, facts))
    check_opencv(plan, accelerated=accelerated)
    return plan


def with_resumed_settings(plan: Plan, began: Mapping[str, Any], free: Collection[str], screen: Screen) -> Plan:
    """The plan of a run that goes on, what the machine settled (`free`) as when it `began`: its bits depend on that.

    Raises `UsageError` where it began with OpenCV, and there is none now.
    """
    for name in free:
        now, then = plan.settled[name].value, began.get(name)
        if then not in (None, now):
            screen.warn(f"{name} {then}, as the run began: this machine's own would be {now}.")
            plan = Plan({**plan.settled, name: SettingValue(then, RESUMED)}, plan.verb)
    check_opencv(plan, accelerated=resolve_device(plan.options.device).type != "cpu")
    return plan


def check_opencv(plan: Plan, *, accelerated: bool) -> None:
    """Raises `UsageError` where views are to be made by OpenCV and cannot be."""
    if plan.options.views_by == "opencv" and (accelerated or not has_opencv()):
        raise UsageError(
            "--views-by opencv needs OpenCV and a CPU.",
            "Here is " + ("a GPU." if accelerated else "no OpenCV that works (pip install 'lwcl[opencv]')."),
            "Give --views-by tensor, or if the run began with it, another --out.",
        )


def has_opencv() -> bool:
    """Whether OpenCV can be used: not a broken one, nor a folder that was left of one."""
    try:
        import cv2

        return all(map(callable, (cv2.sepFilter2D, cv2.setNumThreads)))
    except Exception:  # of another numpy, without its libraries: whatever an extension raises when it is imported
        return False


def median_short_side(images: ImageSet) -> int:
    """The median short side, in pixels, of at most `SAMPLE` images, evenly spaced."""
    places = numpy.linspace(0, len(images) - 1, min(SIZE_SAMPLE, len(images))).round().astype(int)
    return int(numpy.median([min(images.good_image(int(place))[0].size) for place in places]))


def resolve_precision(plan: Plan, screen: Screen) -> Plan:
    """The plan with fp32 or bf16 in the place of `auto` on a CPU: timed, where a run has shown that bf16 is as good.

    People are warned of a bf16 of their choice that is slow here.
    """
    options = plan.options
    if resolve_device(options.device).type != "cpu":
        return plan
    chosen = {"--precision": options.precision, "--teacher-precision": options.teacher and options.teacher_precision}
    for flag, precision in chosen.items():
        if precision == "bf16" and bfloat16.bf16_is_emulated():
            screen.warn(f"{flag} bf16: this CPU is many times faster in fp32.")
    if options.precision != "auto":
        return plan
    choice = precision_without_timing(options.arch)
    if choice is None:
        live = load_teacher(plan)
        net, compute, takes = build_net(plan, options, live.dim if live else 0)
        teacher_dim = live.dim if live else 0
        choice = choose_precision(plan.method, net, plan.recipe, compute, takes.size, teacher_dim)
    return plan.with_precision(choice.name, choice.reason)
