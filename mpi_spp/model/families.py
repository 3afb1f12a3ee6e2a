"""The model families, as data over one decoder. A new family of this shape is one entry here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """How a family differs from plain Llama. A str names the configuration field that decides.

    Source: the `modeling_*.py` and `configuration_*.py` of the same `model_type` in transformers.
    """

    model_type: str
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False  # rms-norm of each query and key head, before the rotation
    sliding_layers: str = "none"  # "none"; "all" layers when sliding_window is set; "by layer" as layer_types says


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
        Family("mistral", sliding_layers="all"),
        Family("qwen2", qkv_bias=True, sliding_layers="by layer"),
        Family(
            "qwen3",
            qkv_bias="attention_bias",
            output_bias="attention_bias",
            qk_norm=True,
            sliding_layers="by layer",
        ),
    )
}
