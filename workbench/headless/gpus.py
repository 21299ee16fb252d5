"""``memwb gpus``: the GPUs that a plan can be predicted for."""

from __future__ import annotations

import argparse

from memwb.engine import gpus as engine
from memwb.workbench import units
from memwb.workbench.headless.output import print_json, table


def gpus(arguments: argparse.Namespace) -> int:
    """List every GPU with what a process can get of it and its rates, the local ones first."""
    found = engine.gpus()
    if arguments.json:
        print_json(found)
        return 0
    rows = [
        (
            gpu.id + (" *" if gpu.local else ""),
            units.gib(gpu.capacity),
            "–" if gpu.bandwidth is None else f"{gpu.bandwidth / 10**9:,.0f}",
            "–" if gpu.bf16 is None else f"{gpu.bf16 / 10**12:,.1f}",
            gpu.arch,
            gpu.name,
        )
        for gpu in found
    ]
    print(table(rows, ("gpu", "usable", "GB/s", "TFLOP/s", "arch", "name"), right="123"))
    here = "* in this machine." if any(gpu.local for gpu in found) else "None is in this machine."
    print(
        f"\n{here} Usable is what one process can get; a desktop takes some"
        "\nhundred MiB of it, and CUDA's own context some more. TFLOP/s are those of bf16;"
        "\n–: no bf16 tensor cores, or no rate known."
    )
    return 0
