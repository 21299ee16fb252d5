"""A question's plans: which are predicted, in what order, and what is kept of them."""

from __future__ import annotations

from memwb.engine.memory import Categories, Peak
from memwb.engine.prediction import Parameters, Prediction
from memwb.engine.prediction_cache import Kept, keep
from memwb.engine.protocol import AllPredicted, Device, Predict, Predicted, Toggled, Unpredicted
from memwb.engine.question import Question, recalled

HERE = Device("cpu", "a CPU", 2**34)
PEAK = Peak(15, 15, 15, "backward", Categories(1, 2, 3, 4, 5))
RESULT = Prediction(
    target="cpu",
    peak=PEAK,
    step=2,
    timeline=(),
    largest=(),
    fits=(),
    parameters=Parameters(7, 7),
    words=("The peak is in the backward pass.",),
)


def ask(first: tuple[str, ...] = (), changes: bool = True, **plan: object) -> Predict:
    return Predict({"model": "tiny", **plan}, "cpu", "1", changes, first)


def test_the_plan_comes_first_then_what_is_wanted_then_the_rest() -> None:
    plain = [job.plan for job in Question(ask(), HERE).waiting]
    jobs = list(Question(ask(("sgd", "lora")), HERE).waiting)
    assert jobs[0].own and not any(job.own for job in jobs[1:])
    assert "sgd" in jobs[1].plan.techniques and "lora" in jobs[2].plan.techniques
    rest = [plan for plan in plain if plan not in (jobs[1].plan, jobs[2].plan)]
    assert [job.plan for job in jobs if job not in jobs[1:3]] == rest


def test_nothing_is_recalled_without_the_plan_itself() -> None:
    own, *toggles = Question(ask(), HERE).waiting
    for job in toggles:
        keep(job.key, Kept(result=RESULT))
    assert recalled(ask(), HERE) == []
    keep(own.key, Kept(result=RESULT))
    first, *changes, last = recalled(ask(), HERE)
    assert first == Predicted("1", RESULT) and isinstance(last, AllPredicted)
    assert all(isinstance(event, Toggled) for event in changes)


def test_what_is_kept_of_it_is_told_and_the_rest_is_left() -> None:
    own, toggle, *_ = Question(ask(), HERE).waiting
    keep(own.key, Kept(result=RESULT))
    keep(toggle.key, Kept(refusal=("No", "it compiles", "Turn it off.", "torch_compile")))
    told = recalled(ask(), HERE)
    assert isinstance(told[0], Predicted) and not isinstance(told[-1], AllPredicted)
    reasons = [event.change.reason for event in told if isinstance(event, Toggled)]
    assert "No: it compiles" in reasons


def test_a_refusal_of_the_plan_itself_is_recalled() -> None:
    own = Question(ask(changes=False), HERE).own
    keep(own.key, Kept(refusal=("No", "it compiles", "Turn it off.", "lora")))
    refused, last = recalled(ask(changes=False), HERE)
    assert isinstance(refused, Unpredicted) and refused.technique == "lora"
    assert isinstance(last, AllPredicted)


def test_a_plan_that_is_wrong_is_left_to_the_engine_to_tell() -> None:
    assert recalled(ask(techniques={"quantize_4bit": {}}), HERE) == []
    assert recalled(ask(workload={"steps": "many"}), HERE) == []
