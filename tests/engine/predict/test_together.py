"""What is told beside the toggles is what each plan would be told alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.engine.predict import together

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 12,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}


def test_every_toggle_is_the_plan_predicted_alone(warm: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    workload = {"batch_size": 1, "sequence_length": 32, "steps": 2, "gradient_accumulation": 3}
    plan = {
        "model": str(tmp_path),
        "weights": "random",
        "workload": workload,
        "techniques": {"bf16": {}, "lora": {}},
    }
    script = Path(together.__file__)
    done = subprocess.run(
        [*warm.python(script), json.dumps(plan)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert set(found) == {"", *together.TOGGLED}
    for name, (told, alone) in found.items():
        assert told == alone, name or "the plan itself"
    assert len({told for told, _ in found.values()}) > 3, "toggles change the peak"
