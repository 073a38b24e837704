"""A base of any shape with random weights, in NF4, on any device: speed and memory do not depend on the weights' values.

Knows nothing about training or measuring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Qwen2Config


def random_base(config: Qwen2Config, dtype: torch.dtype, device: str, seed: int = 0) -> PreTrainedModel:
    """The model on `device`: linear layers in NF4 with double quantisation, everything else in `dtype`.

    Built on the meta device and filled in layer by layer, so that no more than one layer is ever there in full. It is laid out
    as transformers lays out a base loaded with `models.quantisation()`: the output head stays unquantised.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _quantise_layers(model.model, dtype, device)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = _filled(parameter, device, std=config.initializer_range)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its buffers are computed, not loaded
    return _marked_as_quantised(model.requires_grad_(False), dtype)


def _filled(parameter: torch.Tensor, device: str, std: float) -> torch.nn.Parameter:
    import torch

    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    values = values.normal_(std=std) if parameter.dim() > 1 else values.fill_(1.0)
    return torch.nn.Parameter(values, requires_grad=False)


def _quantise_layers(backbone: torch.nn.Module, dtype: torch.dtype, device: str) -> None:
    import bitsandbytes as bnb
    import torch

    for name, layer in list(backbone.named_modules()):
        if not isinstance(layer, torch.nn.Linear):
            continue
        with torch.device("meta"):
            four_bit = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=layer.bias is not None,
                                         compute_dtype=dtype, quant_type="nf4")  # fmt: skip
        values = torch.empty(layer.weight.shape, dtype=dtype, device=device).normal_(std=0.02)
        four_bit.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4", module=four_bit).to(device)
        if layer.bias is not None:
            four_bit.bias = _filled(layer.bias, device, std=0.02)
        backbone.set_submodule(name, four_bit)


def _marked_as_quantised(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Sets what PEFT, TRL and the trainer look at to see that a model was loaded in four bit."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    config: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                     bnb_4bit_compute_dtype=dtype)  # fmt: skip
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config)
    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = config.quant_method
    return model
