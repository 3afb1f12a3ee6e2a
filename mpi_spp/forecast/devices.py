"""Devices by name, for forecasts of hardware that is not here: from their data sheets, so nothing is faster."""

from dataclasses import dataclass, replace

from mpi_spp.forecast.speeds import Speeds, StepCost
from mpi_spp.model.config import ModelConfig
from mpi_spp.parallel.schedule import Cost

_LONGEST_CHUNK = 2048  # fills any of them


@dataclass(frozen=True)
class Device:
    """Of one rank: floating-point operations a second of its products, and bytes a second of its memory."""

    flops: float
    bytes_per_s: float


# Peaks of dense products in 16 bits, and of memory, as the makers give them.
DEVICES = {
    "jetson-orin-nano": Device(10e12, 68e9),
    "jetson-agx-orin": Device(42.5e12, 204.8e9),
    "l4": Device(121e12, 300e9),
    "rtx-4090": Device(165e12, 1008e9),
    "a100-80gb": Device(312e12, 2039e9),
    "h100-sxm": Device(989e12, 3350e9),
}


def on_device(speeds: Speeds, device: Device, model: ModelConfig, layer_bytes: int) -> Speeds:
    """The same ranks and links, each rank with such a device of its own."""
    count, step = len(speeds.layers), StepCost(0.0, 0.0, device.bytes_per_s, device.bytes_per_s)
    origins = speeds.origins | dict.fromkeys(("layers", "steps"), "given")
    return replace(
        speeds,
        layers=[device_cost(device, model, layer_bytes)] * count,
        steps=[step] * count,
        alone=[step] * count,
        crowding=[1.0] * count,
        origins=origins,
    )


def device_cost(device: Device, model: ModelConfig, layer_bytes: int) -> Cost:
    """A chunk reads the weights, then computes with them: two operations a weight and token, four a head's number."""
    per_pair = 4 * model.num_attention_heads * model.head_dim / device.flops
    per_token = 2 * model.active_parameters / device.flops
    return Cost(_LONGEST_CHUNK, layer_bytes / device.bytes_per_s, 0.0, per_token, per_pair)
