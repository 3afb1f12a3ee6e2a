"""Where a rank computes, and in which dtype."""

import torch

from mpi_spp.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str, gpu_ids: tuple[int, ...], local_rank: int, local_size: int) -> torch.device:
    """Resolve `--device auto|cpu|cuda` and `--gpu-ids` for one of `local_size` ranks of a host.

    Rank r of a host takes the r-th id; without ids the ranks go round the GPUs that are there.
    """
    if device == "cpu" or (device == "auto" and not gpu_ids and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    missing = [gpu for gpu in gpu_ids if gpu >= found]
    if missing:
        raise UserError(f"--gpu-ids: GPU {missing[0]} is not there; this host has {found} (ids count from 0)")
    if not found:
        raise UserError("--device cuda: torch finds no GPU on this host; use --device cpu")
    if gpu_ids and len(gpu_ids) < local_size:
        raise UserError(f"--gpu-ids: {len(gpu_ids)} ids for {local_size} ranks on one host; give one id a rank")
    chosen = gpu_ids[local_rank] if gpu_ids else local_rank % found
    torch.cuda.set_device(chosen)
    return torch.device("cuda", chosen)


def choose_dtype(dtype: str, of_checkpoint: torch.dtype, device: torch.device) -> torch.dtype:
    """Resolve `--dtype`; "auto" is the checkpoint's own.

    But a float16 checkpoint runs in bfloat16 on a CPU, where float16 products of many rows are over ten times slower.
    """
    if dtype != "auto":
        return _DTYPES[dtype]
    if of_checkpoint == torch.float16 and device.type == "cpu":
        return torch.bfloat16
    return of_checkpoint if of_checkpoint in _DTYPES.values() else torch.float32
