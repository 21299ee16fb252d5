"""How adapters are written. Text of these functions lands in scripts that train adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def save_adapters(args: argparse.Namespace, model: Any, tokenizer: Any) -> str:
    """Write the adapters, or with ``--merge`` one model, into ``args.output``; say how to load it.

    Adapters need the very base that they were trained on. A random one is written beside them;
    a pretrained one that was quantized must be quantized alike when it is loaded again.
    """
    from pathlib import Path

    folder = Path(args.output)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if args.merge:
        rounded = any(type(p).__name__ == "Int8Params" for p in model.parameters())
        whole = merged(model)
        whole.config.use_cache = True
        whole.save_pretrained(folder)
        told = f"saved one model to {folder}: AutoModelForCausalLM.from_pretrained loads it"
        if rounded:
            told += "\n(the 8-bit base rounded its inputs too, which this model does not)"
        return told
    base = model.get_base_model()
    base.config.use_cache = True
    settings = model.peft_config["default"]
    if args.weights == "random":
        settings.base_model_name_or_path = str((folder / "base").resolve())
    # Embeddings and head are the base's: a copy in each adapter would be larger than the rest.
    model.save_pretrained(folder, save_embedding_layers=False)
    load = "AutoPeftModelForCausalLM.from_pretrained loads them with their base"
    if args.weights == "random":
        unloaded(model).save_pretrained(folder / "base")
        load += (
            f" {folder / 'base'}\n(peft keeps its absolute path: once moved, load base first, "
            "then PeftModel.from_pretrained(base, folder))"
        )
    elif getattr(base.config, "quantization_config", None) is not None:
        load += ";\ngive it the quantization_config of this script for the same logits"
    return f"saved adapters to {folder}: {load}"


def unloaded(model: Any) -> Any:
    """The base without its adapters."""
    base = model.get_base_model()
    # With these marks peft would not even take IA3's factors away.
    base.is_loaded_in_4bit = base.is_loaded_in_8bit = False
    return model.unload()


def merged(model: Any) -> Any:
    """The model with its adapters added into its weights, and no longer quantized.

    The sum of a weight and its update is rounded once, to the precision that the model computes
    in. Quantized weights are expanded first: quantizing the sum again could lose the update.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base = model.get_base_model()
    if getattr(base.config, "quantization_config", None) is None:
        return model.merge_and_unload()
    settings, adapters = model.peft_config["default"], get_peft_model_state_dict(model)
    settings.inference_mode = False
    expanded = get_peft_model(expand(unloaded(model)), settings)
    set_peft_model_state_dict(expanded, adapters)
    return expanded.merge_and_unload()


def expand(model: Any) -> Any:
    """Put a plain module, in the precision it computed in, in the place of each quantized one."""
    import torch
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    loaded = model.config.dtype
    dtype = loaded
    for name, module in list(model.named_modules()):
        if type(getattr(module, "weight", None)).__name__ not in ("Params4bit", "Int8Params"):
            continue
        dtype = getattr(module, "compute_dtype", None) or loaded
        weight = dequantize_module_weight(module).to(dtype)
        with torch.device("meta"):
            if module.source_cls is Conv1D:
                # GPT-2's Conv1D keeps its weight transposed.
                plain, weight = Conv1D(*weight.shape), weight.T.contiguous()
            else:
                outputs, inputs = weight.shape
                plain = torch.nn.Linear(inputs, outputs, bias=module.bias is not None)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        plain.bias = module.bias
        model.set_submodule(name, plain)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    model.config.dtype = dtype
    # Nothing of it is quantized any more, and it must not be loaded as if it were.
    del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    return model
