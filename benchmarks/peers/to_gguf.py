"""A Hugging Face directory of the Llama or Qwen3 family as a bfloat16 GGUF file without a tokenizer.

Source of the names and of the order of rows: convert_hf_to_gguf.py of llama.cpp, which no package carries.
"""

import json
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3"}


def convert(directory: Path, path: Path) -> Path:
    """Write the file, whole or not at all, and return its path."""
    import gguf

    config = json.loads((directory / "config.json").read_text())
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), _ARCHITECTURES[config["model_type"]])
    _add_fields(writer, config)
    _add_tensors(writer, config, directory)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(path)


def _add_fields(writer: Any, config: dict[str, Any]) -> None:
    import gguf

    head_dim = _head_dim(config)
    rope = config.get("rope_parameters") or {}
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _add_tensors(writer: Any, config: dict[str, Any], directory: Path) -> None:
    """Matrices in bfloat16, vectors in float32, as llama.cpp wants them."""
    import gguf

    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}[config["model_type"]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for file in sorted(directory.glob("*.safetensors")):
        for name, bits in _tensors(file):
            target = names.get_name(name, try_suffixes=(".weight",))
            if target is None:
                raise ValueError(f"{name}: has no name in a GGUF file")
            bits = _reordered(bits, name, config)
            if bits.ndim == 1:
                writer.add_tensor(target, (bits.astype("uint32") << 16).view("float32"))
            else:
                writer.add_tensor(target, bits.view("uint8"), raw_dtype=gguf.GGMLQuantizationType.BF16)


def _tensors(file: Path) -> Any:
    """Names and the bits [as in the checkpoint] of bfloat16 tensors; numpy has no such type, so they are uint16."""
    import numpy

    header_bytes = int.from_bytes(file.open("rb").read(8), "little")
    data = numpy.memmap(file, dtype="uint8", mode="r")
    header = json.loads(bytes(data[8 : 8 + header_bytes]))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name}: is {entry['dtype']}, not BF16")
        start, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        yield name, numpy.array(data[start:end]).view("uint16").reshape(entry["shape"])


def _reordered(bits: Any, name: str, config: dict[str, Any]) -> Any:
    """Llama's query and key rows, whose rotated pairs are halves of a head, as neighbours."""
    heads = {"q_proj.weight": "num_attention_heads", "k_proj.weight": "num_key_value_heads"}
    kind = name.split("self_attn.")[-1]
    if config["model_type"] != "llama" or kind not in heads:
        return bits
    rows, columns = bits.shape
    halves = bits.reshape(config[heads[kind]], 2, rows // config[heads[kind]] // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns).copy()


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
