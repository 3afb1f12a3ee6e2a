"""A lesser processor that the program may be made to believe in, so that one machine can try what others would do.

Imports nothing but what Python has loaded when it starts: see start.py.
"""

import os

VARIABLE = "MPI_SPP_CPU"

# By name: the newest of its instruction sets, and what keeps torch's own libraries to the same. Those with AVX-512 lack
# what processors without it have got since (cpu.py).
LEVELS: dict[str, tuple[str, dict[str, str]]] = {
    "sse2": ("sse4_2", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}),
    "avx2": ("avx2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}),
    "avxvnni": ("avx_vnni", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "MKL_CBWR": "AVX2"}),
    "avx512": ("avx512dq", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "avx512vnni": ("avx512_vnni", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}),
    "avx512bf16": ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}),
}


def believe() -> dict[str, str]:
    """Return the variables that make torch's libraries believe what MPI_SPP_CPU says, as far as they can be told.

    They must be there before torch is loaded.
    """
    level = os.environ.get(VARIABLE)
    return dict(LEVELS[level][1]) if level in LEVELS else {}
