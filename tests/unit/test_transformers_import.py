"""Reading a configuration and a tokenizer leaves out what only models of transformers need, which work all the same."""

import subprocess
import sys
from pathlib import Path

import reciting_model

PROGRAM = """
import sys
from pathlib import Path
from mpi_spp.model.config import read_config
from mpi_spp.model.text.tokenizer import load_tokenizer

directory = Path(sys.argv[1])
read_config(directory)
assert load_tokenizer(directory)("ab")["input_ids"]
unwanted = {"torch._dynamo", "torch.distributed.tensor", "accelerate", "transformers.modeling_utils"}
assert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()

from transformers import AutoModelForCausalLM
from transformers.activations import use_kernel_forward_from_hub
from transformers.integrations import hub_kernels

assert hub_kernels.__file__ and use_kernel_forward_from_hub is hub_kernels.use_kernel_forward_from_hub
AutoModelForCausalLM.from_pretrained(directory)
"""


def test_what_only_models_need_is_left_out_until_they_do(tmp_path: Path) -> None:
    directory = reciting_model.build(tmp_path / "model")
    program = [sys.executable, "-c", PROGRAM, str(directory)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
