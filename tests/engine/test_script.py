"""The script: text a person enjoys, values that stay data, and the same run without memwb."""

from __future__ import annotations

import ast
import contextlib
import io
import linecache
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from memwb.engine.catalog import Model, resolve
from memwb.engine.plan import Plan, override, plan_from, problems
from memwb.engine.protocol import Device
from memwb.engine.script import literal, script
from memwb.engine.technique import techniques, unavailable

pytestmark = pytest.mark.long

STACKS = [
    [],
    ["bf16=on", "sgd=on"],
    ["lora=on", "quantize_4bit=on", "chunked_cross_entropy=on", "bf16=on"],
    ['lora.targets=["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]'],
    ["amp_bf16=on", "activation_checkpointing.every=2", "adamw_8bit=on"],
    ["adafactor=on", "attention.implementation=eager"],
    ["packing=on"],
    ["length_grouping=on"],
]

QUOTES = ["'", '"', '"""', "'''", "\\", "\\'", '\\"', "\n", "\r\n", "\t", "\0", "#", "{}", "%s"]
CODE = [
    "__import__('os').system('touch PWNED')",
    "raise SystemExit(9)",
    "%(prog)s %(default)s",
    "{__import__}",
    "\u2028",
    "\x0c",
    "\x85",
    "é漢🙂",
    "*/",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
]

CPU = Device("cpu", "a CPU", 2**34)


def plan_of(*overrides: str, **workload: Any) -> Plan:
    small = {"sequence_length": 32, "batch_size": 2, "steps": 3} | workload
    plan = plan_from({"model": "x", "workload": small})
    for text in overrides:
        plan = override(plan, text)
    return plan


def model_of(config: dict[str, Any], **changes: Any) -> Model:
    known = {"name": "x", "source": "folder", "location": "/nowhere", "weights": "random"}
    return Model(config=config, **(known | changes))


def run(text: str, *argv: str) -> list[str]:
    """The lines that the script prints when it is run in this process."""
    module = types.ModuleType("train")
    # Triton reads the text of its kernels.
    linecache.cache["train.py"] = (len(text), None, text.splitlines(keepends=True), "train.py")
    exec(compile(text, "train.py", "exec"), module.__dict__)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        module.main(list(argv))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: "+".join(stack) or "plain")
def test_text_is_formatted_linted_and_free_of_memwb(
    stack: list[str], families: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "train.py"
    path.write_text(script(plan_of(*stack), model_of(families["llama"])), encoding="utf-8")
    settings = "lint.select = ['E', 'F', 'I', 'B', 'SIM', 'D103']\nline-length = 100\n"
    (tmp_path / "ruff.toml").write_text(settings)
    for check in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    names = [
        name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    ]
    assert not [name for name in names if name.startswith("memwb")]


def test_main_reads_top_to_bottom_in_about_thirty_lines(families: dict[str, Any]) -> None:
    text = script(plan_of(*STACKS[2]), model_of(families["llama"]))
    main = text[text.index("def main(") : text.index("if __name__")].strip()
    assert len(main.splitlines()) <= 36


def test_hostile_values_stay_data(families: dict[str, Any], tmp_path: Path) -> None:
    rng = random.Random(0)
    base = model_of(families["llama"])
    for _ in range(100):
        nasty = "".join(rng.choices(QUOTES + CODE, k=rng.randint(1, 6)))
        plan = plan_from(
            {
                "model": nasty,
                "workload": {"data": nasty, "text_field": nasty},
                "techniques": {"lora": {"targets": [nasty]}},
            }
        )
        # Of a family whose modules memwb cannot name: any target may be one of them.
        config = {**(base.config or {}), "model_type": "another", "name": nasty}
        config[nasty] = [nasty, {nasty: None}]
        model = model_of(config, name=nasty, location=nasty, tokenizer=nasty)
        tree = ast.parse(script(plan, model, evidence=nasty))
        module = types.ModuleType("train")
        exec(compile(tree, "train.py", "exec"), module.__dict__)
        assert module.DEFAULTS["model"] == module.DEFAULTS["data"] == nasty
        assert module.DEFAULTS["text_field"] == module.DEFAULTS["tokenizer"] == nasty
        assert config == module.CONFIG
        strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert nasty in strings
        # Nothing but definitions, data and the usual ending: no statement has sprung up.
        kinds = {type(node) for node in tree.body}
        assert kinds <= {
            ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign,
            ast.FunctionDef, ast.ClassDef, ast.If,
        }  # fmt: skip
        assert all(
            isinstance(node.value, ast.Constant) for node in tree.body if isinstance(node, ast.Expr)
        )
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(io.StringIO()):
            module.main(["--help"])
        assert ended.value.code == 0


@pytest.mark.parametrize("value", [{}, [], [1, 2.5, None, True], {"a": {"b": ["c" * 200]}}, -1e-30])
def test_a_literal_evaluates_to_its_value(value: Any) -> None:
    assert ast.literal_eval(literal(value)) == value


def test_a_literal_may_be_infinite() -> None:
    assert eval(literal([float("inf"), -float("inf")])) == [float("inf"), -float("inf")]
    assert "nan" in repr(eval(literal(float("nan"))))


def test_a_literal_refuses_what_is_no_data() -> None:
    with pytest.raises(TypeError, match="object"):
        literal([object()])


def test_sdpa_is_refused_where_scores_are_capped(families: dict[str, Any]) -> None:
    plan = plan_of("attention=on")
    [problem] = problems(plan, families["gemma2"])
    assert problem.override == "attention.implementation=eager"
    mended = override(plan, problem.override)
    assert run(script(mended, model_of(families["gemma2"])))
    assert not any(problems(plan, config) for name, config in families.items() if name != "gemma2")


@pytest.mark.parametrize("name", [n for n, t in techniques().items() if t.tolerance])
def test_others_stay_within_their_tolerance(name: str, families: dict[str, Any]) -> None:
    tolerance = techniques()[name].tolerance or 0
    arguments = {"attention": "attention.implementation=eager"}
    chosen = arguments.get(name, f"{name}=on")
    for family, precision in (("llama", "bf16"), ("gemma2", "fp32"), ("gpt2", "fp32")):
        config = families[family]
        if name == "torch_compile" and family == "gemma2":
            # Its two layers differ, and a C++ compiler takes long for each.
            config = config | {"num_hidden_layers": 1}
        model = model_of(config)
        plan = plan_of(f"{precision}=on", chosen, steps=10)
        if problems(plan, model.config) or unavailable(techniques()[name], None, CPU):
            continue
        plain = run(script(plan_of(f"{precision}=on", steps=10), model))
        other = run(script(plan, model))
        for one, two in zip(plain, other, strict=True):
            a, b = float(one.split()[-1]), float(two.split()[-1])
            assert abs(a - b) <= tolerance * a, (family, precision, one, two)


def test_accumulation_equals_the_big_batch(families: dict[str, Any]) -> None:
    model = model_of(families["llama"])
    big = run(script(plan_of(batch_size=4), model))
    small = run(script(plan_of(batch_size=1, gradient_accumulation=4), model))
    for one, two in zip(big, small, strict=True):
        assert float(one.split()[-1]) == pytest.approx(float(two.split()[-1]), rel=1e-5)


def test_schedules_differ_and_warm_up_starts_at_nothing(families: dict[str, Any]) -> None:
    model = model_of(families["llama"])
    runs = {s: run(script(plan_of(steps=6, schedule=s), model)) for s in ("constant", "cosine")}
    assert runs["constant"][:2] == runs["cosine"][:2]
    assert runs["constant"][-1] != runs["cosine"][-1]
    warm = run(script(plan_of("learning_rate=0.01", warmup_steps=2), model))
    cold = run(script(plan_of("learning_rate=0.01"), model))
    assert warm[0] == cold[0]
    assert warm[1] != cold[1]


def test_pretrained_folder_with_its_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_text("a model forgets nothing but its gradients\n" * 60)
    plan = plan_of(f"data={data}")
    model = resolve(str(checkpoint))
    assert (model.weights, model.tokenizer) == ("pretrained", str(checkpoint))
    first = run(script(plan, model))
    assert run(script(plan, model)) == first
    assert run(script(plan, resolve(str(checkpoint), "random"))) != first


def test_the_file_runs_alone_and_explains_itself(families: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    text = script(plan_of(), model_of(families["llama"]))
    path.write_text(text, encoding="utf-8")
    # A memwb that cannot be imported, before the real one on the path.
    (tmp_path / "memwb").mkdir()
    (tmp_path / "memwb" / "__init__.py").write_text("raise ImportError('memwb is not here')")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == run(text)
    wrong = subprocess.run(
        [sys.executable, str(path), "--data", "nowhere.txt"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1] == "train.py: there is no data file nowhere.txt"
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("three.txt", "only three words", "needs 32"),
        ("empty.txt", "", "holds 0 tokens"),
        ("other.csv", "a,b", ".jsonl or .parquet"),
        ("broken.jsonl", '{"text": "fine"}\n{"text"', "line 2"),
        ("field.jsonl", '{"body": "fine"}\n', "no text in field 'text'"),
        ("bytes.txt", b"\xff\xfe\x00\x01", "utf-8"),
        ("bad.parquet", b"PAR1 and nothing more", "bad.parquet"),
    ],
    ids=lambda value: value if str(value).count(".") == 1 else "",
)
def test_bad_data_is_a_data_error_that_names_the_file(
    name: str, content: str | bytes, hint: str, families: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"\w") as caught:
        run(script(plan_of(f"data={path}"), model_of(families["llama"])))
    assert type(caught.value).__name__ == "DataError"
    assert name in str(caught.value)
    assert hint in str(caught.value)


def test_jsonl_and_parquet_train_like_the_same_text(
    families: dict[str, Any], tmp_path: Path
) -> None:
    import json

    import pyarrow
    from pyarrow import parquet

    rows = [{"body": f"row {number}: some text to train on"} for number in range(40)]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    table = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    model = model_of(families["llama"])
    one, two = (run(script(plan_of(f"data={p}", "text_field=body"), model)) for p in (lines, table))
    assert one == two


def test_a_device_with_a_number_is_the_one_that_libraries_launch_on(monkeypatch: Any) -> None:
    import torch

    from memwb.engine.recipe import choose_device

    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert current == [1]
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    for wrong, said in (("cuda:2", "finds 2"), ("cuda:x", "cuda:N"), ("gpu", "is auto, cpu")):
        with pytest.raises(SystemExit, match=f"--device {wrong}: .*{said}"):
            choose_device(wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here"):
        choose_device("cuda:0")
    assert current == [1]


def test_a_script_asks_for_nothing_but_what_its_plan_needs() -> None:
    """pyarrow is for parquet files alone: train.py starts without it."""
    tree = ast.parse(script(plan_from({"model": "tiny"}), resolve("tiny")))
    top = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    roots = {name.partition(".")[0] for name in top}
    assert roots - set(sys.stdlib_module_names) == {"torch", "transformers"}
