"""``python -m benchmarks.resources [--arch 80,89,90] [--only rms_norm]``: every kernel, compiled.

Compiles, without a GPU, each launch of every kernel at the shapes of compiled_cases.py for the
chips of launches.py, as a real launch would specialise it, and prints what ptxas says: registers,
spilled bytes, shared memory. 1 when something spills, asks for more shared memory than a block of
the chip can have, has its wgmma serialised, or when a kernel has no case.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks.compiled_cases import Case, cases, kernel_files
from benchmarks.launches import CHIPS, Chip, Launch, recorded

MOST_REGISTERS = 65536
"""Of one block: a multiprocessor's, on every chip of the table."""


class Resources(NamedTuple):
    """What one compiled launch needs. Bytes; registers of one thread."""

    kernel: str
    label: str
    chip: Chip
    warps: int
    stages: int
    registers: int
    spilled: int
    stack: int
    shared: int
    warnings: tuple[str, ...]
    seconds: float

    @property
    def faults(self) -> list[str]:
        """Why it is not fit to run."""
        found = list(self.warnings)
        if self.spilled:
            found.append(f"{self.spilled} B of registers spilled")
        if self.shared > self.chip.shared:
            found.append(f"shared memory over the {self.chip.shared:,} B of {self.chip.name}")
        if self.registers * 32 * self.warps > MOST_REGISTERS:
            found.append("more registers than a block can have")
        return [f"{self.kernel} ({self.label}, {self.chip.name}): {fault}" for fault in found]


def compiled(launch: Launch, label: str, chip: Chip) -> Resources:
    """Compile a launch for a chip and read what the assembler says of it. One to three seconds."""
    target = GPUTarget("cuda", chip.arch, 32)
    source, options, _ = _source(launch, target)
    began = time.perf_counter()
    told = io.StringIO()
    with contextlib.redirect_stdout(told), _log_of_ptxas():
        built = triton.compile(source, target=target, options=options)
    log = told.getvalue()
    assert "registers" in log, f"ptxas said nothing of {launch.kernel.__name__}: {log}"
    stores, loads = (_number(rf"(\d+) bytes spill {way}", log) for way in ("stores", "loads"))
    return Resources(
        kernel=launch.kernel.__name__,
        label=label,
        chip=chip,
        warps=built.metadata.num_warps,
        stages=built.metadata.num_stages,
        registers=_number(r"Used (\d+) registers", log),
        spilled=stores + loads,
        stack=_number(r"(\d+) bytes stack frame", log),
        shared=built.metadata.shared,
        warnings=tuple(_warnings(log)),
        seconds=time.perf_counter() - began,
    )


def _source(launch: Launch, target: GPUTarget) -> tuple[ASTSource, dict[str, Any], str]:
    """A launch as the compiler takes it, and the key of the binary, of compiler and assembler."""
    backend = make_backend(target)
    kernel = launch.kernel
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    # As JITFunction.run does, which would go on to ask for a device.
    given = {**launch.options, "debug": False, "instrumentation_mode": ""}
    bound, specialization, _ = binder(*launch.args, **given)
    options, signature, constants, attrs = kernel._pack_args(
        backend, given, bound, specialization, None
    )
    source = ASTSource(kernel, signature, constants, attrs)
    return source, options.__dict__, get_cache_key(source, backend, options, {})


@contextlib.contextmanager
def _log_of_ptxas() -> Iterator[None]:
    """Have the compiler print ptxas' log, and compile even what it has in its cache."""
    knobs = triton.knobs
    before = knobs.nvidia.dump_ptxas_log, knobs.compilation.always_compile
    knobs.nvidia.dump_ptxas_log, knobs.compilation.always_compile = True, True
    try:
        yield
    finally:
        knobs.nvidia.dump_ptxas_log, knobs.compilation.always_compile = before


def _number(pattern: str, log: str) -> int:
    """The sum of what the pattern finds: a log may tell of more than one function."""
    return sum(int(found) for found in re.findall(pattern, log))


def _warnings(log: str) -> list[str]:
    """What the assembler says of slow code: wgmma serialised, local memory after all."""
    return [
        line.partition(": ")[2] or line
        for line in log.splitlines()
        if "serializ" in line or line.startswith(("warning", "ptxas warning"))
    ]


def launches(cases: Iterable[Case], chip: Chip) -> dict[str, tuple[Launch, str]]:
    """The launches of the cases by their binaries' keys, each with its first case's label."""
    found: dict[str, tuple[Launch, str]] = {}
    target = GPUTarget("cuda", chip.arch, 32)
    for case in cases:
        with recorded(chip) as these:
            case.call()
        for launch in these:
            found.setdefault(_source(launch, target)[2], (launch, case.label))
    return found


def without_case(seen: set[str]) -> list[str]:
    """Triton functions of kernels/ whose names end in _kernel and that no case launched."""
    found = []
    for file in kernel_files():
        module = importlib.import_module(f"memwb.kernels.{file}")
        found += [
            f"{file}: {name} is launched by no case of compiled_cases.py"
            for name, value in vars(module).items()
            if isinstance(value, JITFunction) and name.endswith("_kernel") and name not in seen
        ]
    return found


def table(rows: Iterable[Resources]) -> str:
    """Markdown: a line for each compiled launch."""
    lines = [
        "| kernel | shape | chip | warps | stages | registers | spilled B | shared B | fault |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        faults = "; ".join(fault.partition("): ")[2] for fault in row.faults)
        lines.append(
            f"| {row.kernel} | {row.label} | {row.chip.name} | {row.warps} | {row.stages} "
            f"| {row.registers} | {row.spilled} | {row.shared:,} | {faults} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile all, print the table; 0 when nothing is wrong with any."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resources",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arches = ",".join(str(chip.arch) for chip in CHIPS)
    parser.add_argument("--arch", default=arches, help="[%(default)s]")
    parser.add_argument("--only", default="", help="kernel files, with commas between; all without")
    args = parser.parse_args(argv)
    wanted = [name for name in args.only.split(",") if name]
    if wrong := [name for name in wanted if name not in kernel_files()]:
        parser.error(f"there is no kernels/{wrong[0]}.py; there are {', '.join(kernel_files())}")
    chips = [chip for chip in CHIPS if str(chip.arch) in args.arch.split(",")]
    if not chips:
        parser.error(f"no chip of {args.arch!r}; there are {arches}")
    chosen = [case for case in cases() if not wanted or case.kernel in wanted]
    rows = []
    for chip in chips:
        for launch, label in launches(chosen, chip).values():
            rows.append(compiled(launch, label, chip))
            print(f"{rows[-1].kernel} {chip.name}", file=sys.stderr, flush=True)
    print(f"triton {triton.__version__}\n\n{table(rows)}")
    faults = [fault for row in rows for fault in row.faults]
    if not wanted:
        faults += without_case({row.kernel for row in rows})
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
