"""Two prompts, answered by all ranks:  mpi-spp launch -np 3 -- run examples/answer.py"""

from mpi_spp import LLM, SamplingParams

llm = LLM("smollm2-135m-instruct", decode="tensor")  # the options of the command line
prompts = ["What is the capital of France?", "What is the capital of Japan?"]
answers = llm.generate(prompts, SamplingParams(max_tokens=12))
if llm.rank == 0:
    for prompt, answer in zip(prompts, answers, strict=True):
        print(f"{prompt} {answer.text} ({answer.finish_reason})")
