"""A tiny Llama that recites a known text, with a byte-level tokenizer: answers can be foretold, and are real text.

The layers have random weights but add nothing to the hidden state; the head maps every token to its successor. So the
KV cache and all communication are as in any model, and the answer to any prompt is `text`, then the stop token.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_model import Tensors, edit

from mpi_spp.model.text.tokenizer import load_tokenizer, token_ids

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "ab cdé😀你,fgh!"  # characters of one to four bytes; no byte comes twice, so each has one successor
_HEADS, _HEAD_DIM = 4, 8


def build(
    directory: Path,
    text: str = TEXT,
    num_hidden_layers: int = 5,
    max_position_embeddings: int = 4096,
    chat_template: str | None = TEMPLATE,
) -> Path:
    """Write the model and its tokenizer into a new directory, and return it."""
    directory.mkdir(parents=True)
    tokenizer = make_tokenizer(chat_template)
    tokenizer.save_pretrained(directory)
    vocab_size = len(tokenizer) + 3  # as in real models, some ids have no token
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": -(-vocab_size // _HEADS) * _HEADS,
        "intermediate_size": 16,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": max_position_embeddings,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(_weights(config, _successors(tokenizer, text, vocab_size)), directory / "model.safetensors")
    return directory


def make_tokenizer(chat_template: str | None = TEMPLATE) -> Any:
    """A token for each byte, and two special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {token: number for number, token in enumerate(sorted(byte_level.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, chat_template=chat_template
    )


def _successors(tokenizer: Any, text: str, vocab_size: int) -> list[int]:
    """For each id the next one: along the text, then the stop token; from anything else to the text's beginning."""
    path = [*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids(END)]
    assert len(set(path)) == len(path), f"a byte comes twice in {text!r}"
    following = dict(itertools.pairwise(path))
    return [following.get(token, path[0]) for token in range(vocab_size)]


def _weights(config: dict[str, Any], successors: list[int]) -> dict[str, torch.Tensor]:
    hidden, mlp, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    head = torch.zeros(rows, hidden)
    for token, successor in enumerate(successors):
        head[successor, token] = 1.0
    weights = {"model.embed_tokens.weight": torch.eye(rows, hidden), "lm_head.weight": head}
    weights["model.norm.weight"] = torch.ones(hidden)
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (_HEADS * _HEAD_DIM, hidden),
            "self_attn.k_proj": (_HEADS * _HEAD_DIM // 2, hidden),
            "self_attn.v_proj": (_HEADS * _HEAD_DIM // 2, hidden),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
        }
        named = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        named |= {
            "self_attn.o_proj": torch.zeros(hidden, _HEADS * _HEAD_DIM),
            "mlp.down_proj": torch.zeros(hidden, mlp),
        }
        named |= {"input_layernorm": torch.ones(hidden), "post_attention_layernorm": torch.ones(hidden)}
        weights |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in named.items()}
    return weights


def poison(model: Path, place: Path, word: str) -> Path:
    """A copy of a model where this word is too much for the second layer: finite weights, and no finite scores."""
    shutil.copytree(model, place)
    (token,) = token_ids(load_tokenizer(place, chats=False), word, 9, "word")

    def change(tensors: Tensors) -> Tensors:
        for name in ("up_proj", "gate_proj"):
            tensors[f"model.layers.1.mlp.{name}.weight"][:, token] = 1e30
        return tensors | {"model.layers.9.odd.weight": torch.ones(3)}

    edit(place, change)
    return place
