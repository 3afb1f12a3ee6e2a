"""A chat whose answer is shown as it is made:  mpi-spp launch -np 2 -- run examples/chat.py"""

from mpi_spp import LLM, SamplingParams

llm = LLM("smollm2-135m-instruct")
messages = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
for text in llm.stream(messages, SamplingParams(max_tokens=40)):
    if llm.rank == 0:
        print(text, end="", flush=True)
if llm.rank == 0:
    print()
