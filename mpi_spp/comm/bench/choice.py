"""Which transports there are on the ranks at hand."""

from collections.abc import Callable, Sequence

import torch

from mpi_spp.comm.bench.measure import LeftOut
from mpi_spp.comm.bench.pickled import Pickled
from mpi_spp.comm.bench.raw import Raw
from mpi_spp.comm.bench.torch_distributed import TorchDistributed
from mpi_spp.comm.bench.transport import Transport, Unavailable
from mpi_spp.comm.bench.wrapper import Wrapper
from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.world import World


def open_transports(
    names: Sequence[str], world: World, device: torch.device, cuda_aware: str
) -> tuple[list[Transport], list[LeftOut]]:
    """Those of these names that work with memory of this device, and why the others do not. Collective.

    `cuda_aware`: auto, yes or no.
    """
    on_gpu = device.type == "cuda"
    aware = on_gpu and is_cuda_aware(cuda_aware, world.mpi_comm)

    def wrapper() -> Transport:
        shares_core = world.some_share_cores(world.default_threads())
        return Wrapper(Communicator(world.mpi_comm.Dup(), choose_staging(device, aware), shares_core, "measured"))

    def raw() -> Transport:
        if on_gpu and not aware:
            raise Unavailable("this MPI reads no GPU memory (--cuda-aware)")
        return Raw(world.mpi_comm.Dup())

    def pickled() -> Transport:
        if on_gpu:
            raise Unavailable("NumPy has no arrays on GPUs (--device cpu)")
        return Pickled(world.mpi_comm.Dup())

    def gloo() -> Transport:
        if on_gpu:
            raise Unavailable("is measured in host memory (--device cpu)")
        return TorchDistributed("gloo", world.mpi_comm)

    def nccl() -> Transport:
        if not on_gpu:
            raise Unavailable("needs a GPU for each rank (--device cuda)")
        return TorchDistributed("nccl", world.mpi_comm)

    makers: dict[str, Callable[[], Transport]] = {
        "wrapper": wrapper,
        "raw": raw,
        "pickled": pickled,
        "gloo": gloo,
        "nccl": nccl,
    }
    opened: list[Transport] = []
    missing = []
    for name in names:
        try:
            opened.append(makers[name]())
        except Unavailable as why:
            missing.append(LeftOut(name, None, None, None, str(why)))
    return opened, missing
