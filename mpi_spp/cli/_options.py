"""Options that several commands share; their defaults are RunConfig's."""

import math
from collections.abc import Callable
from typing import Any

import click

from mpi_spp.config import (
    ACTIVATIONS,
    CUDA_AWARE,
    DEVICES,
    DTYPES,
    GRANULARITIES,
    KERNELS,
    KV_CACHE_DTYPES,
    LAYER_SPLITS,
    MOST_SECONDS,
    QUANTIZE,
    default_of,
)
from mpi_spp.parallel import registry
from mpi_spp.parallel.partition import CONTEXT_SPLITS
from mpi_spp.request import MOST_TOKENS
from mpi_spp.system.files import parse_json
from mpi_spp.system.units import MemoryLimit, parse_limit

_DIGITS = 10  # of no GPU's number
Decorator = Callable[[Any], Any]


class File(click.Path):
    """The name of a file, as the system would take it; whether there is one is for whoever opens it to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType."""
        if value == "":  # which would stand for the working directory
            self.fail("an empty name; give that of a file", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:
            self.fail(f"{value!r} is no name of a file ({error})", param, ctx)


FILE = File()


class Number(click.FloatRange):
    """A number within limits; NaN is within none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click.ParamType."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


TOKENS = click.IntRange(1, MOST_TOKENS)  # of a prompt or an answer
# To reckon with: beyond all that was ever built, and within what comes out as figures that mean something.
GBIT_PER_S, MICROSECONDS = Number(1e-5, 1e6), Number(1e-3, 1e7)
TFLOPS, GB_PER_S, PERCENT = Number(1e-6, 1e6), Number(1e-3, 1e6), Number(0, 100)


def run_option(name: str, help_text: str, **settings: Any) -> Decorator:
    """A click option with the default of RunConfig's field of the same name."""
    default = default_of(name.strip("-").split("/")[0].replace("-", "_"))
    if isinstance(settings.get("type"), click.Path):
        settings["type"] = FILE
    if settings.get("required"):
        return click.option(name, help=help_text, **settings)
    if settings.get("multiple"):
        return click.option(name, help=f"{help_text}  [default: {default}]", **settings)
    if default == ():
        default = None  # click would read a tuple as several values
    return click.option(name, default=default, help=help_text, show_default=default is not None, **settings)


def together(*options: Decorator) -> Decorator:
    """One decorator for several options, shown in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def parse_gpu_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Read `5,6,7`."""
    parts = [] if value is None else [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < _DIGITS for part in parts):
        raise click.BadParameter(f"{value!r} is no comma-separated list of numbers from 0 up, such as 5,6,7")
    return tuple(map(int, parts))


def parse_chunk_size(text: str) -> int | str:
    """Read `auto` or `128`."""
    if text == "auto" or (text.removeprefix("-").isdecimal() and text.isascii()):
        return text if text == "auto" else int(text)
    raise click.BadParameter(f"{text!r} is neither auto nor a number of tokens, such as 128")


def parse_memory(ctx: click.Context, param: click.Parameter, value: str | None) -> MemoryLimit:
    """Read `8GiB`, or `node1=8GiB,node2=4GiB`."""
    return None if value is None else parse_limit(value, "--max-memory")


def parse_layer_split(text: str) -> tuple[int, ...] | str:
    """Read `auto`, `even` or `10,9,9`."""
    if text in LAYER_SPLITS:
        return text
    parts = text.split(",")
    if all(part.strip().isdecimal() and part.isascii() for part in parts):
        return tuple(map(int, parts))
    raise click.BadParameter(f"{text!r} is neither auto nor even nor the layers of each rank, such as 10,9,9")


def schedule_options(multiple: bool = False) -> Decorator:
    """How the prefill is cut and the cache is synced; `multiple`: each may be given several times, to compare them."""
    again = "; may be repeated." if multiple else "."
    syncs, granularities = (click.Choice(["auto", *names]) for names in (registry.choices("sync"), GRANULARITIES))
    prefills, decodes = (click.Choice(["auto", *registry.choices(verb)]) for verb in ("prefill", "decode"))
    return together(
        run_option("--prefill", f"How the ranks share the prompt's work{again}", type=prefills, multiple=multiple),
        run_option("--decode", f"How the ranks share the work on new tokens{again}", type=decodes, multiple=multiple),
        run_option(
            "--chunk-size",
            f"Prompt tokens in a chunk of the prefill; auto: by what computing costs here{again}",
            type=parse_chunk_size,
            metavar="auto|N",
            multiple=multiple,
        ),
        run_option(
            "--layer-split",
            f"Layers of each stage; auto: even unless ranks differ in speed{again}",
            type=parse_layer_split,
            metavar="auto|even|N,N,...",
            multiple=multiple,
        ),
        run_option(
            "--sync-strategy",
            f"How the KV cache gets from where the prefill leaves it to where the decode wants it{again}",
            type=syncs,
            multiple=multiple,
        ),
        run_option(
            "--sync-granularity",
            f"Sync after every layer, every chunk, or once; auto: by what the links cost{again}",
            type=granularities,
            multiple=multiple,
        ),
        run_option(
            "--context-split",
            f"Which positions a rank of a ring prefill computes{again}",
            type=click.Choice(CONTEXT_SPLITS),
            multiple=multiple,
        ),
    )


def parse_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """Read `{"enable_thinking": false}`; that it is an object is checked with what it may hold."""
    return None if value is None else parse_json(param.opts[0], value, '; give {"enable_thinking": false}')


# How a text becomes a chat.
chat_options = together(
    run_option("--chat/--no-chat", "Use the model's chat template.  [default: when it has one]"),
    run_option(
        "--chat-template-kwargs",
        """Variables for the chat template: '{"enable_thinking": false}'.""",
        callback=parse_object,
        metavar="JSON",
    ),
)

# What is made of a prompt.
answer_options = together(
    chat_options,
    run_option("--system", "The system message of the chat."),
    run_option("--max-new-tokens", "The longest answer, in tokens.", type=int),
    run_option("--ignore-eos", "Go on after the stop token.", is_flag=True),
)

# How a token is chosen.
sampling_options = together(
    run_option("--temperature", "0: the likeliest token; above: draw from softmax(logits / temperature).", type=float),
    run_option("--top-k", "Draw from the k likeliest tokens; 0: from all.", type=int),
    run_option("--top-p", "Draw from the likeliest tokens that make up this share of the probability.", type=float),
    run_option("--seed", "Repeats a draw, on any number of ranks.  [default: drawn, and told in the report]", type=int),
)

# What is changed of a model's scores before a token is chosen.
penalty_options = together(
    run_option(
        "--repetition-penalty",
        "Above 1: tokens of the prompt and the answer lose.  [default: as generation_config.json says, else 1]",
        type=float,
    ),
    run_option("--presence-penalty", "Subtracted from the scores of tokens that the answer has.", type=float),
    run_option("--frequency-penalty", "Subtracted for each time that the answer has a token.", type=float),
    run_option(
        "--generation-config",
        "auto: the model's generation_config.json counts; none: of it only the stop tokens; or another file.",
        metavar="auto|none|PATH",
    ),
)

# Where tensors lie.
device_options = together(
    run_option("--device", "auto: a GPU where there is one.", type=click.Choice(DEVICES)),
    run_option("--gpu-ids", "GPUs of each host, one a rank: 5,6,7.", callback=parse_gpu_ids),
    run_option("--cuda-aware", "Whether MPI reads GPU memory.", type=click.Choice(CUDA_AWARE)),
)

memory_option = run_option(
    "--max-memory",
    "For all ranks of a host, such as 8GiB, or by host, node1=8GiB,node2=4GiB; what needs more is refused.",
    callback=parse_memory,
    metavar="BYTES|HOST=BYTES,...",
)

timeout_option = run_option(
    "--timeout",
    "Seconds after which ranks that wait in vain end the job; 0: no limit.",
    type=click.IntRange(0, MOST_SECONDS),
)

# What is run, and on what.
model_options = together(
    click.option("--model", required=True, help="A model directory, a model of the local store, or a hub name."),
    run_option(
        "--mesh",
        "Ranks by axis: dp replicas, pp stages, ep groups of experts, tp shards: pp=2,tp=2.  [default: pp=all]",
    ),
    run_option("--dtype", "auto: the checkpoint's own.", type=click.Choice(DTYPES)),
    run_option("--kv-cache-dtype", "auto: that of the run; int8: half of it.", type=click.Choice(KV_CACHE_DTYPES)),
    run_option("--quantize", "Weights of 8 or 4 bits, made once and kept on disk.", type=click.Choice(QUANTIZE)),
    run_option("--quantize-group-size", "Inputs that share a scale.", type=int),
    run_option(
        "--activations",
        "Of products with int4 weights; int8: faster, each 32 inputs are codes of 8 bits.",
        type=click.Choice(ACTIVATIONS),
    ),
    device_options,
    run_option(
        "--kernels",
        f"Arithmetic of the layers; auto: what is measured as fastest; or {', '.join(KERNELS[1:])}.",
        type=click.Choice(KERNELS),
        metavar="auto|NAME",
    ),
    run_option("--threads", "Threads of each rank.  [default: the rank's share of its cores]", type=int),
    memory_option,
    timeout_option,
    run_option("--log-dir", "Write rankR.log for every rank into this directory.", type=click.Path()),
)

# What is recorded of a run besides its measurements.
trace_options = together(
    run_option("--trace", "Write a timeline of all ranks, for Perfetto and `mpi-spp trace`.", type=click.Path()),
    run_option(
        "--trace-messages", "Print a line for each first message of a kind; --log-dir or --trace has all.", is_flag=True
    ),
)


def json_option(help_text: str) -> Decorator:
    """`--json PATH`, as every command has it."""
    return click.option(
        "--json", "json", type=FILE, metavar="PATH|-", help=f"{help_text} -: it is all of standard output."
    )
