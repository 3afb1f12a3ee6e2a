"""Answer a prompt of token ids on all ranks, from Python:  mpirun -np 2 python -m mpi4py examples/token_by_token.py

The command line does the same with more care; this shows the pieces.
"""

from mpi_spp.cli._start import open_engine
from mpi_spp.comm.world import the_world
from mpi_spp.config import RunConfig
from mpi_spp.report.timings import Clock

world, clock = the_world(), Clock()
config = RunConfig(model="smollm2-135m-instruct", chunk_size=4, sync_strategy="ring")
engine = open_engine(config, world, clock)  # every rank loads its part, or all raise

prompt_ids = [504, 3575, 282, 4649, 314]  # "The capital of France is"
for token in engine.generate(prompt_ids, stop_ids=frozenset(), max_new_tokens=5):
    if world.rank == 0:
        print(token, flush=True)

facts = world.gather(engine.facts())
if world.rank == 0:
    print([f"rank {rank['rank']} sent {rank['bytes_sent']} bytes" for rank in facts])
