"""The matrix products of a layer by name: the tensors that each is made of, and how a share of it is cut out."""

from dataclasses import dataclass

from mpi_spp.model.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
ATTENTION, MLP, SHARED = ("qkv", "output"), ("gate_up", "down"), ("shared.gate_up", "shared.down")
ROUTER, SHARED_GATE = "mlp.gate.weight", "mlp.shared_expert_gate.weight"


@dataclass(frozen=True)
class Product:
    """The Hugging Face names of what is multiplied with the same input, each with a part of a Share.

    That part says which of their outputs a share has; or, of a product that sums over shares, which inputs.
    """

    tensors: dict[str, str]
    sums: bool = False


_PRODUCTS = {
    "qkv": Product({"self_attn.q_proj": "query_heads", "self_attn.k_proj": "kv_heads", "self_attn.v_proj": "kv_heads"}),
    "output": Product({"self_attn.o_proj": "query_heads"}, sums=True),
}


def product(name: str) -> Product:
    """One of `products_of`."""
    if name in _PRODUCTS:
        return _PRODUCTS[name]
    owner, _, kind = name.rpartition(".")
    if owner == "":
        prefix, part = "mlp.", "mlp"
    elif owner == "shared":
        prefix, part = "mlp.shared_expert.", "shared"
    else:
        prefix, part = f"mlp.{owner}.", "expert_columns"
    if kind == "down":
        return Product({f"{prefix}down_proj": part}, sums=True)
    return Product({f"{prefix}gate_proj": part, f"{prefix}up_proj": part})


def of_expert(number: int) -> tuple[str, str]:
    """The two products of an expert."""
    return f"experts.{number}.gate_up", f"experts.{number}.down"


def products_of(config: ModelConfig, layer: int) -> list[str]:
    """All products of a layer."""
    if config.experts is None or not config.has_experts(layer):
        return [*ATTENTION, *MLP]
    experts = [name for number in range(config.experts.count) for name in of_expert(number)]
    return [*ATTENTION, *experts, *(SHARED if config.experts.shared_size else ())]


def has_bias(config: ModelConfig, name: str) -> bool:
    """Whether a product adds one."""
    return {"qkv": config.qkv_bias, "output": config.output_bias}.get(name, config.mlp_bias)


def product_shape(config: ModelConfig, name: str) -> tuple[int, int]:
    """The outputs and inputs of a product, all shares together."""
    sizes = [_size(config, part) for part in product(name).tensors.values()]
    return (config.hidden_size, sizes[0]) if product(name).sums else (sum(sizes), config.hidden_size)


def layer_shapes(config: ModelConfig, layer: int) -> Shapes:
    """The tensors of one layer by their Hugging Face names."""
    hidden = config.hidden_size
    shapes: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name in products_of(config, layer):
        for tensor, part in product(name).tensors.items():
            size = _size(config, part)
            rows, columns = (hidden, size) if product(name).sums else (size, hidden)
            shapes[f"{tensor}.weight"] = (rows, columns)
            if has_bias(config, name):
                shapes[f"{tensor}.bias"] = (rows,)
    if config.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (config.head_dim,) for name in "qk"}
    if config.qk_norm_over_heads:
        parts = {"q": "query_heads", "k": "kv_heads"}
        shapes |= {f"self_attn.{name}_norm.weight": (_size(config, part),) for name, part in parts.items()}
    if config.experts is not None and config.has_experts(layer):
        shapes[ROUTER] = (config.experts.count, hidden)
        if config.experts.shared_size:
            shapes[SHARED_GATE] = (1, hidden)
    return {f"{prefix(layer)}{name}": shape for name, shape in shapes.items()}


def stage_shapes(config: ModelConfig, layers: range) -> Shapes:
    """The tensors that a rank with these layers reads, whole or in part."""
    shapes: Shapes = {EMBEDDING: (config.vocab_size, config.hidden_size), NORM: (config.hidden_size,)}
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    for layer in layers:
        shapes |= layer_shapes(config, layer)
    return shapes


def prefix(layer: int) -> str:
    """Before the names of a layer's tensors."""
    return f"model.layers.{layer}."


def _size(config: ModelConfig, part: str) -> int:
    """The rows or columns of all shares together."""
    experts = config.experts
    sizes = {
        "query_heads": config.num_attention_heads * config.head_dim,
        "kv_heads": config.num_key_value_heads * config.head_dim,
        "mlp": config.intermediate_size,
    }
    if experts is not None:
        sizes |= {"expert_columns": experts.size, "shared": experts.shared_size}
    return sizes[part]
