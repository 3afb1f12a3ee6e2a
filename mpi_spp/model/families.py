"""The model families, as data over one decoder. A new family of this shape is one entry here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertFields:
    """The configuration fields of a family whose layers have experts in the place of an MLP.

    `normalized`: as in Experts, or the field that decides. `by_layer`: whether some layers may have an MLP all the
    same, as mlp_only_layers and decoder_sparse_step say.
    """

    count: str = "num_experts"
    size: str = "moe_intermediate_size"
    shared_size: str | None = None
    normalized: bool | str = "norm_topk_prob"
    by_layer: bool = False


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
    qk_norm_over_heads: bool = False  # one norm over all heads instead of one for each; then clip_qkv limits numbers
    sliding_layers: str = "none"  # "none"; "all" layers when sliding_window is set; "by layer" as layer_types says
    experts: ExpertFields | None = None

    @property
    def has_windows(self) -> bool:
        """Whether sliding_window counts, in some layers or in all."""
        return self.sliding_layers != "none"


FAMILIES = {
    family.model_type: family
    for family in (
        Family("llama", qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
        Family("mistral", sliding_layers="by layer"),
        Family("qwen2", qkv_bias=True, sliding_layers="by layer"),
        Family(
            "qwen3",
            qkv_bias="attention_bias",
            output_bias="attention_bias",
            qk_norm=True,
            sliding_layers="by layer",
        ),
        Family(
            "mixtral", sliding_layers="all", experts=ExpertFields("num_local_experts", "intermediate_size", None, True)
        ),
        Family(
            "qwen2_moe",
            qkv_bias="qkv_bias",
            sliding_layers="by layer",
            experts=ExpertFields(shared_size="shared_expert_intermediate_size", by_layer=True),
        ),
        Family(
            "qwen3_moe",
            qkv_bias="attention_bias",
            output_bias="attention_bias",
            qk_norm=True,
            sliding_layers="all",
            experts=ExpertFields(by_layer=True),
        ),
        Family(
            "olmoe",
            qkv_bias="attention_bias",
            output_bias="attention_bias",
            qk_norm_over_heads=True,
            experts=ExpertFields(size="intermediate_size"),
        ),
    )
}
