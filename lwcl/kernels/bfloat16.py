"""How this CPU computes in bfloat16: by its own instructions, by conversion, or by torch's reference kernels."""

import platform

import torch

NATIVE_BF16_CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")  # torch's names; the last one is ARM's
#: torch's names of x86 CPUs for which oneDNN has no bfloat16 kernels: these need AVX-512.
CPUS_WITHOUT_BF16_KERNELS = ("NO AVX", "DEFAULT", "AVX2")


def bf16_is_native() -> bool:
    """Whether this CPU multiplies in bfloat16; otherwise torch is slower in it than in float32."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in NATIVE_BF16_CAPABILITIES)


def bf16_is_emulated() -> bool:
    """Whether torch computes bfloat16 by reference kernels on this CPU.

    A step of MobileNetV3-Large then takes 13 times as long as in float32 (AMD EPYC, Zen 3; 64 px, batch 128).
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return x86 and not bf16_is_native() and torch.backends.cpu.get_cpu_capability() in CPUS_WITHOUT_BF16_KERNELS
