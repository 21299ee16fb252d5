"""What torch's own estimator says of a plan, and what it takes: MemTracker under fake tensors."""

from __future__ import annotations

import time
from typing import Any

from memwb.engine import catalog
from memwb.engine.plan import Plan
from memwb.engine.predict.predictor import predict


def memtracker(plan: Plan, target: str) -> str:
    """A sentence for a plan that trains all weights in bf16 with AdamW: seconds and peak, and ours.

    Loading and two steps, as a prediction has them, in a plain loop on fake CPU tensors.
    """
    try:
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        return f"MemTracker is not in this torch: {error}."
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    found = catalog.resolve(plan.model, "random").config
    assert found is not None
    kind = found["model_type"]
    rest = {key: value for key, value in found.items() if key != "model_type"}
    config = AutoConfig.for_model(kind, **rest)
    wall, processor = time.perf_counter(), time.process_time()
    tracker: Any = MemTracker()
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters())
        shape = (plan.workload.batch_size, plan.workload.sequence_length)
        tokens = torch.zeros(shape, dtype=torch.int64)
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                tracker.reset_mod_stats()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peaks = tracker.get_tracker_snapshot("peak")
    peak = max(one["Total"] for one in peaks.values())
    ours = predict(plan, target)
    return (
        f"MemTracker, {plan.model}, all weights: {wall:.1f} s, {processor:.1f} s of processor, "
        f"peak {peak / 2**30:.2f} GiB (fake CPU tensors).\n"
        f"memwb, the same plan for {target}: {ours.seconds:.1f} s, "
        f"peak {ours.peak.allocated / 2**30:.2f} GiB."
    )
