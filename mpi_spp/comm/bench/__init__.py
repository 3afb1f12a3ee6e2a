"""Communication measured: the same exchanges through this package, through bare MPI, and through what others use."""

OPERATIONS = ("allgather", "ring", "allreduce", "alltoall", "broadcast", "ping-pong")
MODES = ("blocking", "nonblocking", "persistent")
TRANSPORTS = ("wrapper", "raw", "pickled", "gloo", "nccl")
DTYPES = {"float32": 4, "float64": 8, "bfloat16": 2}  # of what is summed; bytes of a number
