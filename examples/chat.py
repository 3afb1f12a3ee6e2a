"""A chat whose answer is shown as it is made:  mpirun -np 2 python -m mpi4py examples/chat.py"""

from mpi_spp import LLM, SamplingParams

llm = LLM("smollm2-135m-instruct")
messages = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "Where is the Louvre?"},
]
for text in llm.stream(messages, SamplingParams(max_tokens=40, temperature=0.7, seed=1)):
    if llm.rank == 0:
        print(text, end="", flush=True)
if llm.rank == 0:
    print()
