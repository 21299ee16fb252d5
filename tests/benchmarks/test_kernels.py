"""The kernel sections' logic, on the CPU: what is checked, timed, refused, and how it is shown."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[2]
NAMES = (
    "arms", "bursts", "checks", "journal", "kernel_cases", "kernels", "kernels_correct",
    "kernels_race", "problems", "readme", "roofline", "timing", "truth", "__main__",
)  # fmt: skip


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    """The suite's modules by name, the repository's root on sys.path while they are imported."""
    with pytest.MonkeyPatch.context() as patch:
        for loaded in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
            patch.delitem(sys.modules, loaded)
        patch.syspath_prepend(str(ROOT))
        yield SimpleNamespace(
            **{name: importlib.import_module(f"benchmarks.gpu.{name}") for name in NAMES}
        )


def some_losses(gpu: Any, **more: Any) -> Any:
    given = {"dtype": torch.bfloat16, "device": "cpu"} | more
    return gpu.problems.losses("fused_linear_cross_entropy", 40, 64, 300, **given)


def test_quantiles_lie_between_neighbours_in_proportion(gpu: Any) -> None:
    found = gpu.timing.spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert found == (1.8, 3.0, 4.2, 5)
    assert gpu.timing.spread([7.0]) == (7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="no samples"):
        gpu.timing.spread([])


def test_each_arm_is_as_often_in_each_place(gpu: Any) -> None:
    for arms in (1, 2, 5):
        rounds = [gpu.timing.order(arms, turn) for turn in range(2 * arms)]
        for place in range(arms):
            assert sorted(one[place] for one in rounds) == sorted(2 * list(range(arms)))


def test_arms_are_sampled_in_turn_and_all_or_none_have_figures(gpu: Any) -> None:
    seen: list[str] = []
    made = {name: (lambda name=name: [lambda: seen.append(name)]) for name in ("one", "two")}
    clock = gpu.timing.Clock("cpu")
    found, lost = gpu.timing.interleaved(made, clock, 4)
    assert lost == {}
    assert seen[6:] == ["one", "two", "two", "one", "two", "one", "one", "two"]
    assert [one.samples for (one,) in found.values()] == [4, 4]
    assert gpu.timing.interleaved(made, clock, 4, time.monotonic() - 1) == ({}, {})


def test_an_arm_that_fails_while_it_is_timed_takes_none_with_it(gpu: Any) -> None:
    turns = iter(range(5))

    def tires() -> None:
        if next(turns) == 4:
            raise torch.OutOfMemoryError("none left")

    made = {"one": lambda: [int], "two": lambda: [tires], "three": lambda: [int]}
    found, lost = gpu.timing.interleaved(made, gpu.timing.Clock("cpu"), 4)
    assert list(found) == ["one", "three"] and list(lost) == ["two"]
    assert [one.samples for (one,) in found.values()] == [4, 4]


@pytest.mark.parametrize(
    "more",
    [
        {}, {"peaky": True}, {"ignored": 0.5, "bias": True}, {"trained": False, "softcap": 30.0},
        {"smoothing": 0.1, "z_loss": 1e-3}, {"ignored": 1.0},
    ],
)  # fmt: skip
def test_the_truth_by_pieces_is_the_plain_formula_in_fp64(gpu: Any, more: dict[str, Any]) -> None:
    problem = gpu.problems.raised(some_losses(gpu, **more))
    whole = gpu.problems.plain(problem)
    pieces = gpu.problems._true_losses(problem, rows=7)
    assert set(whole) == set(pieces)
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-11, atol=1e-15)
    assert ("gradient of weight" in whole) is more.get("trained", True)


def test_peaky_rows_are_sure_of_their_label_and_flat_ones_are_not(gpu: Any) -> None:
    means = {}
    for peaky in (False, True):
        problem = some_losses(gpu, peaky=peaky, dtype=torch.float32)
        inputs = problem.inputs
        logits = inputs["hidden"] @ inputs["weight"].T
        chance = logits.softmax(-1).gather(1, inputs["labels"][:, None])
        means[peaky] = float(chance.detach().mean())
    assert means[False] < 0.05 and 0.5 < means[True] < 0.95


def test_every_case_can_be_made_and_plainly_computed(gpu: Any) -> None:
    cases, checks = gpu.kernel_cases, gpu.checks
    for kernel in cases.KERNELS:
        raced, tried = cases.race(kernel, True), cases.correct(kernel, True)
        assert len({case.label for case in raced}) == len(raced)
        assert len({case.label for case in tried}) == len(tried)
        plain = next(arm for arm in gpu.arms.arms_of(kernel) if arm.name == gpu.arms.PLAIN)
        for case in (raced[0], *tried):
            problem = case.make("cpu")
            known = checks.standard(problem)
            found = checks.check(plain, problem, plain.make(problem), known, "cpu")
            assert not found["faults"], case.label
            assert problem.wanted and gpu.problems.kept_only(problem) > 0
            assert bool(problem.products) != any(problem.moved)
        dtypes = {case.label.split()[1] for case in tried}
        assert dtypes == {"bf16", "fp16", "fp32"}


def test_the_race_has_the_shapes_that_were_agreed(gpu: Any) -> None:
    found = gpu.kernel_cases.race("fused_linear_cross_entropy")
    assert found[0].label == "fused_linear_cross_entropy Llama-3-8B 8192×4096×128256"
    assert len(found) == 4 * 3 * 6
    for words in ("peaky", "frozen", "ignored 0.5", "2048×", "16384×", "Gemma-2-2B"):
        assert any(words in case.label for case in found), words
    assert [case.label for case in gpu.kernel_cases.race("rms_norm")][:2] == [
        "rms_norm 8192×4096", "rms_norm 8192×4096 residual"
    ]  # fmt: skip


def arm(gpu: Any, change: Any, name: str = "memwb") -> Any:
    """Ours, if ours were the plain formula with its results changed."""

    def make(problem: Any) -> Any:
        return lambda: change(problem, problem.plain(problem.inputs, problem.options))

    return gpu.arms.Arm(name, make)


def checked(gpu: Any, one: Any, problem: Any) -> list[str]:
    known = gpu.checks.standard(problem)
    told = gpu.checks.check(one, problem, one.make(problem), known, "cpu")
    return list(told["faults"])


def test_what_is_wrong_is_refused(gpu: Any) -> None:
    problem = gpu.problems.gates("swiglu", 6, 40, device="cpu")
    assert checked(gpu, arm(gpu, lambda p, found: found), problem) == []
    scaled = checked(gpu, arm(gpu, lambda p, found: (found[0] * 1.02,)), problem)
    assert len(scaled) == 3 and " off, over " in scaled[0]
    empty = checked(gpu, arm(gpu, lambda p, found: (found[0] * math.nan,)), problem)
    assert len(empty) == 3 and "nan off" in empty[0]

    def writes(p: Any, found: Any) -> Any:
        p.inputs["gate"].data.mul_(1.0 + 2**-7)
        return found

    assert "it wrote over its input gate" in checked(gpu, arm(gpu, writes), problem)
    # And the others' inputs are whole again.
    assert checked(gpu, arm(gpu, lambda p, found: found), problem) == []
    turns = iter((1.0, 1.0 + 2**-7))
    flaky = checked(gpu, arm(gpu, lambda p, found: (found[0] * next(turns),)), problem)
    assert any("differs from run to run" in fault for fault in flaky)


def test_others_may_be_coarser_but_not_wrong(gpu: Any) -> None:
    problem = some_losses(gpu)
    assert checked(gpu, arm(gpu, lambda p, f: (f[0] * 1.03,), "Liger"), problem) == []
    assert checked(gpu, arm(gpu, lambda p, f: (f[0] * 1.2,), "Liger"), problem)


def test_a_race_gives_no_figure_to_what_is_wrong_absent_or_breaks(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(problem: Any) -> Any:
        raise RuntimeError("no such kernel\nand more")

    arms = [
        arm(gpu, lambda p, found: (found[0] * 1.5,)),
        arm(gpu, lambda p, found: found, "plain"),
        gpu.arms.Arm("absent", breaks, "no_such_package"),
        gpu.arms.Arm("broken", breaks),
    ]
    monkeypatch.setattr(gpu.arms, "arms_of", lambda kernel: arms)
    case = gpu.kernel_cases.race("swiglu", True)[0]
    rows = gpu.kernels.race_rows(case, "cpu", math.inf, samples=2)
    assert [row["outcome"] for row in rows] == ["wrong", "right", "left out", "failed"]
    assert ["seconds" in row for row in rows] == [False, True, False, False]
    assert rows[2]["reason"] == "no_such_package is not installed"
    assert rows[3]["reason"] == "RuntimeError: no such kernel"
    assert set(rows[1]["seconds"]) == {"forward", "backward"} == set(rows[1]["roofline"])
    assert rows[1]["seconds"]["backward"]["samples"] == 2
    # A wrong kernel of ours fails the section; another's is told.
    assert [row["outcome"] in row["expected"] for row in rows] == [False, True, True, True]
    text = gpu.kernels_race.table(rows)
    assert "| memwb | wrong: output 0 is 5.0e-01 off" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    (alone,) = gpu.kernels.race_rows(case, "cpu", math.inf, samples=1, arms=["plain"])
    assert alone["arm"] == "plain"


def test_inputs_that_an_arm_writes_over_are_restored_before_each_sample(gpu: Any) -> None:
    problem = gpu.problems.gates("swiglu", 4, 8, device="cpu")
    values = gpu.problems.copied(problem)
    made = gpu.kernels.passes(problem, lambda: problem.plain(problem.inputs, {}), values)
    for part in made():
        part()
    problem.inputs["gate"].detach().zero_()
    first, second = made()
    assert torch.equal(problem.inputs["gate"], values["gate"])
    first()
    assert [tuple(one.shape) for one in second()] == [(4, 8), (4, 8)]


def test_a_process_that_dies_takes_its_case_alone(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of four cases the second kills its process, the third hangs.
    script = tmp_path / "fake.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for case in range(int(sys.argv[sys.argv.index('--skip') + 1]), 4):\n"
        "    print(json.dumps({'began': case}), flush=True)\n"
        "    if case == 1: os._exit(7)\n"
        "    if case == 2: time.sleep(60)\n"
        "    row = {'case': case, 'outcome': 'right', 'expected': ['right']}\n"
        "    print(json.dumps({'row': row}), flush=True)\n"
    )
    real = gpu.kernels.subprocess.Popen
    monkeypatch.setattr(
        gpu.kernels.subprocess,
        "Popen",
        lambda command, **more: real([sys.executable, str(script), *command[3:]], **more),
    )
    cases = [SimpleNamespace(label=name) for name in "abcd"]
    monkeypatch.setattr(gpu.kernels, "_cases", lambda *_: cases)
    monkeypatch.setattr(gpu.kernels, "SILENCE", {"race": 1.0})
    gpu.journal.begin(tmp_path / "journal.jsonl", "kernels-race")
    rows, left = gpu.kernels._child("race", "rope", "cpu", 60.0, "")
    assert [row["outcome"] for row in rows] == ["right", "failed", "failed", "right"]
    assert left == [] and [row["case"] for row in rows] == [0, "b", "c", 3]
    assert [row["reason"] for row in rows[1:3]] == ["its process ended with 7", "it hung"]
    kept = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert kept == [{"section": "kernels-race", "row": row} for row in rows]
    assert gpu.kernels._child("race", "rope", "cpu", 0.0, "") == ([], list("abcd"))


def test_on_a_gpu_kernels_are_checked_at_once_and_raced_one_by_one(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = gpu.kernel_cases.KERNELS
    meeting = threading.Barrier(len(kernels))

    def child(task: str, kernel: str, *_: Any) -> Any:
        if task == "correct":
            meeting.wait(timeout=30)
        else:
            assert threading.current_thread() is threading.main_thread()
        return [{"kernel": kernel}], [f"more of {kernel}"]

    monkeypatch.setattr(gpu.kernels, "_child", child)
    for task in ("correct", "race"):
        rows, left = gpu.kernels.rows_of(task, "cuda", time.monotonic() + 60)
        assert tuple(row["kernel"] for row in rows) == kernels
        assert left == [f"more of {kernel}" for kernel in kernels]


def fake_engine(folder: Path) -> list[str]:
    """The command of an engine whose bursts are done at once, but those with certain names."""
    script = folder / "fake.py"
    script.write_text(
        "import json, os, sys, time\n"
        "device = {'kind': 'cpu', 'name': '', 'capacity': 0}\n"
        "ready = {'type': 'ready', 'device': device, 'versions': {}}\n"
        "print(json.dumps(ready), flush=True)\n"
        "for line in sys.stdin:\n"
        "    told = json.loads(line)\n"
        "    name = told.get('burst')\n"
        "    if name is None: sys.exit()\n"
        "    if name == 'dies': sys.exit('a bus error')\n"
        "    if name == 'hangs': time.sleep(60)\n"
        "    if name == 'leaves': os.close(0)\n"
        "    print(json.dumps({'type': 'ended', 'burst': name, 'outcome': 'done'}), flush=True)\n"
        "    if name == 'leaves': os._exit(0)\n"
    )
    return [sys.executable, str(script)]


def test_an_engine_that_dies_or_hangs_takes_its_burst_alone(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu.bursts, "ENGINE", fake_engine(tmp_path))
    monkeypatch.setattr(gpu.bursts, "SILENCE", 1.0)
    plan = gpu.truth.plans()[0][1]
    names = ["first", "dies", "second", "hangs", "third", "leaves", "fourth"]
    plans = [(name, plan) for name in names]
    rows, left = gpu.bursts.run(plans, "cpu", math.inf)
    assert [row["plan"] for row in rows] == names and left == []
    assert [row["outcome"] for row in rows] == ["done", "failed", "done", "failed", *["done"] * 3]
    assert rows[1]["what"] == "the engine ended with 1: a bus error"
    assert rows[3]["what"] == "the engine hung" and "hangs" in gpu.truth.table(rows)
    monkeypatch.setattr(gpu.bursts, "ENGINE", [sys.executable, "-c", "raise SystemExit(5)"])
    assert gpu.bursts.run(plans, "cpu", math.inf) == ([], names)


@pytest.mark.parametrize(("release", "outcome"), [("2.11.0", "unavailable"), ("2.13.0", "done")])
def test_a_technique_that_is_not_for_this_torch_is_a_skip_that_is_told(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, outcome: str
) -> None:
    monkeypatch.setattr(gpu.bursts, "ENGINE", fake_engine(tmp_path))
    monkeypatch.setattr("memwb.engine.technique.torch_version", lambda: release)
    names = ["fp32", "linear cross-entropy"]
    monkeypatch.setattr(gpu.truth, "PLANS", {name: gpu.truth.PLANS[name] for name in names})
    suite = gpu.__dict__["__main__"]
    monkeypatch.setitem(suite.SECTIONS, "truth", "truth_of_a_test")
    monkeypatch.setitem(sys.modules, "truth_of_a_test", gpu.truth)
    assert suite.main(["--device", "cpu", "--out", str(tmp_path), "--sections", "truth"]) == 0
    rows = json.loads((tmp_path / "truth.json").read_text())["rows"]
    outcomes = {row["plan"]: row["outcome"] for row in rows}
    assert outcomes == {"fp32": "done", "linear cross-entropy": outcome}
    told = "unavailable: linear_cross_entropy needs torch 2.13, not 2.11.0"
    assert (told in (tmp_path / "truth.md").read_text()) == (outcome == "unavailable")


def test_without_a_kernel_file_its_rows_say_so(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu.kernel_cases.correct("rope", True)[0]._replace(kernel="no_such")
    monkeypatch.setattr(
        gpu.arms, "arms_of", lambda kernel: [gpu.arms.Arm("memwb", gpu.arms._ours, cannot=gone)]
    )

    def gone(problem: Any) -> str:
        return str(gpu.arms._not_there(problem._replace(kernel="no_such")))

    (row,) = gpu.kernels.correct_rows(case, "cpu", math.inf)
    assert row["outcome"] == "left out" and "no_such" in row["reason"]


def test_shares_of_the_time_follow_what_matters(gpu: Any) -> None:
    names = ["kernels-race", "roofline", "qwen"]
    share = gpu.__dict__["__main__"].share
    assert share(names, 0, 600.0) == 400.0
    assert share(names, 1, 200.0) == 100.0 and share(names, 2, 100.0) == 100.0


def test_rooflines_are_of_the_right_shapes(gpu: Any) -> None:
    rows, left = gpu.roofline.measure("cpu", time.monotonic() + 0.2)
    assert len(rows) + len(left) == 4 + 3 * 4 * 3
    assert rows[0]["name"] == "copy 64 MiB" and rows[0]["rate"] > 0
    assert "TB/s" in gpu.roofline.table(rows)
    assert gpu.roofline.measure("cpu", 0.0)[0] == []


def test_truth_tells_what_was_equal_and_what_recording_costs(gpu: Any) -> None:
    peak = {"allocated": 10, "reserved": 20, "device": 30}
    base = {
        "outcome": "done", "peak": peak, "traced_maximum": 10, "tokens_per_second": 1.0,
        "traced_step_seconds": 3.0, "timed_step_seconds": 2.0,
    }  # fmt: skip
    rows = [
        {**base, "plan": "one"}, {**base, "plan": "two", "traced_maximum": 9},
        {**base, "plan": "out of memory", "outcome": "oom"}, {**base, "plan": "after it"},
    ]  # fmt: skip
    text = gpu.truth.table(rows)
    assert "equal to the allocator's peak: 2 of 3." in text
    assert "takes 1.50 times as long" in text
    assert "Out of memory on purpose: oom; after it: done." in text


def raced(kernel: str, arm: str, ms: float, extra: int, **more: Any) -> dict[str, Any]:
    spread = {"p20": ms / 1e3, "p50": ms / 1e3, "p80": ms / 1e3, "samples": 40}
    return {
        "kernel": kernel, "case": f"{kernel} 1×2", "arm": arm, "outcome": "right", "reason": "",
        "expected": ["right"], "seconds": {"both": spread}, "roofline": {"both": 0.9},
        "extra": extra, "errors": {"output 0": 1e-3}, "least_extra": 2**20, **more,
    }  # fmt: skip


def test_readme_shows_the_latest_and_nothing_of_a_wrong_kernel(gpu: Any, tmp_path: Path) -> None:
    around = {"date": "2026-01-01", "commit": "abc", "torch": "2", "triton": "3", "device": "G"}
    rows = [
        raced("rope", "memwb", 2.0, 2**20), raced("rope", "Liger", 4.0, 2**21),
        raced("swiglu", "memwb", 1.0, 2**20), raced("swiglu", "Liger", 3.0, 2**21),
    ]  # fmt: skip
    race = {**around, "rows": rows, "left_out": []}
    (tmp_path / "kernels-race.json").write_text(json.dumps(race))
    wrong = {"kernel": "swiglu", "outcome": "wrong", "case": "c", "reason": "r"}
    correct = {**around, "rows": [wrong], "left_out": []}
    (tmp_path / "kernels-correct.json").write_text(json.dumps(correct))
    text = gpu.readme.page(tmp_path)
    assert "G, 2026-01-01" in text and "| rope 1×2 | 2.00 | 1 | 90% | 2.00 (Liger) |" in text
    assert "swiglu 1×2" not in text and "swiglu: not shown, it failed its check" in text
    with pytest.raises(SystemExit, match="no kernels-race"):
        gpu.readme.main([str(tmp_path / "none")])


@pytest.mark.parametrize(
    "kernel",
    [
        "fused_linear_cross_entropy", "cut_cross_entropy", "rms_norm", "layer_norm", "swiglu",
        "geglu", "rope", "lora_linear", "lora_mlp",
    ],
)  # fmt: skip
def test_ours_is_called_as_it_wants_and_is_right_on_a_cpu(gpu: Any, kernel: str) -> None:
    assert kernel in gpu.kernel_cases.KERNELS
    cases = gpu.kernel_cases.correct(kernel, True)
    for case in [one for one in cases if " bf16 " in one.label or " fp32 " in one.label]:
        (row,) = gpu.kernels.correct_rows(case, "cpu", math.inf)
        there = importlib.util.find_spec(f"memwb.kernels.{kernel}") is not None
        assert row["outcome"] == ("right" if there else "left out"), (case.label, row)


class OnTheCpu(TorchFunctionMode):
    """What is to be made on a GPU is made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def test_what_runs_on_a_gpu_alone_runs_to_its_end(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race's own path on a GPU, with the host in its place: each call is one that torch has."""
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("record")

        def elapsed_time(self, end: Any) -> float:
            return 2.0

    plain = {
        "synchronize": lambda: said.append("synchronize"),
        "_sleep": lambda cycles: said.append("sleep"),
        "get_device_properties": lambda index: SimpleNamespace(L2_cache_size=2**20),
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 350,
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: said.append("empty"),
    }
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name, function in plain.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, function)
    cases = [
        case._replace(make=lambda device, make=case.make: make("cpu"))
        for kernel in ("swiglu", "fused_linear_cross_entropy")
        for case in gpu.kernel_cases.race(kernel, True)[:1]
    ]
    with OnTheCpu():
        for case in cases:
            ours, other = gpu.kernels.race_rows(case, "cuda", math.inf, 2, ["memwb", "plain"])
            assert ours["outcome"] == other["outcome"] == "right", (ours, other)
            assert all(one["p50"] == 2e-3 for one in ours["seconds"].values())
            assert ours["extra"] == 250 and ours["roofline"]
        # Each part of a sample: cold, then idle, then between two events.
        said.clear()
        gpu.timing.Clock("cuda").sample([lambda: said.append("part")] * 2)
        assert said == ["sleep", "record", "part", "record"] * 2 + ["synchronize"]
        monkeypatch.setattr(gpu.kernels, "_cases", lambda *_: cases)
        told: list[Any] = []
        monkeypatch.setattr(gpu.kernels, "_tell", told.append)
        assert gpu.kernels.main(["correct", "swiglu"]) == 0
        assert [one["row"]["outcome"] for one in told if "row" in one] == ["right"] * 2
        assert "empty" in said
        # A broken device: the process says whose fault it was, and that it is done for.
        broken = RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        monkeypatch.setattr(gpu.kernels, "correct_rows", lambda *_: (_ for _ in ()).throw(broken))
        told.clear()
        assert gpu.kernels.main(["correct", "swiglu", "--skip", "1"]) == gpu.kernels.BROKEN
        assert told[-1]["row"]["outcome"] == "failed" and len(told) == 2
        rows, _ = gpu.roofline.measure("cuda", time.monotonic() + 0.1)
        assert rows[0]["outcome"] == "done"
