"""The options of a run: one frozen dataclass, validated when made. Its defaults are the command line's defaults."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from mpi_spp.errors import UserError
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import parse_mesh
from mpi_spp.parallel.partition import CONTEXT_SPLITS
from mpi_spp.request import (
    DRAWS,
    MOST_TOKENS,
    PENALTY_RANGES,
    Draws,
    check_draw,
    check_penalty,
    check_template_variables,
)
from mpi_spp.system.outputs import require_name
from mpi_spp.system.units import MemoryLimit, counted

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
KV_CACHE_DTYPES = ("auto", "int8")
GRANULARITIES = ("layer", "chunk", "prefill")
_INSTRUCTIONS = (
    "amx",
    "avx512bf16",
    "avx512vnni",
    "avx512",
    "avxvnni",
    "avx2",
    "neon-bf16",
    "neon-i8mm",
    "neon-dotprod",
    "neon",
)
_VARIANTS = tuple(f"native-{name}" for name in _INSTRUCTIONS)
KERNELS = ("auto", "plain", "packed", "widened", "blockwise", "native", *_VARIANTS)
QUANTIZE = ("int8", "int4")
ACTIVATIONS = ("exact", "int8")
LAYER_SPLITS = ("auto", "even")
CUDA_AWARE = ("auto", "yes", "no")
MOST_THREADS = 1024
MOST_SECONDS = 366 * 24 * 3600  # of a limit, which the system's clocks take
_LARGEST_GROUP = 1 << 16
_MOST_ANSWERS = 1 << 16  # of one prompt
_MOST = {
    "max_new_tokens": MOST_TOKENS,
    "num_return_sequences": _MOST_ANSWERS,
    "chunk_size": MOST_TOKENS,
    "threads": MOST_THREADS,
    "timeout": MOST_SECONDS,
}
_LARGEST_GUIDANCE = 1e6


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the user chose. Raises UserError naming the option when a value cannot work."""

    model: str
    prompt: str | None = None
    prompt_file: str | None = None
    prompt_ids: str | None = None
    document: str | None = None
    questions: str | None = None
    chat: bool | None = None  # None: a chat when the model has a chat template
    system: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the chat template
    max_new_tokens: int = 100
    ignore_eos: bool = False
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    seed: int | None = None  # None: one is drawn when it is needed
    repetition_penalty: float | None = None  # None: as the generation configuration says, else 1: off
    presence_penalty: float = 0.0  # 0: off
    frequency_penalty: float = 0.0  # 0: off
    generation_config: str = "auto"  # the model's own; none: no file; else a file or its folder
    num_return_sequences: int = 1
    guidance_scale: float = 1.0  # 1: off
    negative_prompt: str | None = None  # None: the prompt's last token alone
    chunk_size: int | Literal["auto"] = "auto"
    layer_split: tuple[int, ...] | Literal["auto", "even"] = "auto"  # numbers: layers of each rank
    mesh: str | None = None  # None: all ranks are the stages of one replica
    prefill: str = "pipeline"
    sync_strategy: str = "auto"
    sync_granularity: str = "chunk"
    context_split: str = "zigzag"  # of a chunk's positions, where a prefill splits them
    decode: str = "replicated"
    max_memory: MemoryLimit = None  # bytes that all ranks of a host may use
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    quantize: str | None = None  # None: weights as the checkpoint has them
    quantize_group_size: int = 32
    activations: str = "exact"  # of products with weights of 4 bits
    device: str = "auto"
    gpu_ids: tuple[int, ...] = ()
    cuda_aware: str = "auto"
    kernels: str = "auto"
    threads: int | None = None  # None: the cores of this rank, shared with the ranks bound to the same ones
    timeout: int = 60  # seconds after which a wait in vain ends the job; 0: no limit
    log_dir: str | None = None
    trace: str | None = None
    trace_messages: bool = False
    json: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences", "chunk_size", "threads", "max_memory"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UserError(f"{option_name(name)}: {value} is too small; give 1 or more")
        for name, most in _MOST.items():
            value = getattr(self, name)
            if isinstance(value, int) and value > most:
                raise UserError(f"{option_name(name)}: {value} is too much; give {most} or less")
        if self.timeout < 0:
            raise UserError(f"--timeout: {self.timeout} is too small; give 1 or more, or 0 for no limit")
        if not isinstance(self.chunk_size, int):
            self._check_choice("chunk_size", ("auto",))
        if not isinstance(self.layer_split, tuple):
            self._check_choice("layer_split", LAYER_SPLITS)
        elif min(self.layer_split, default=0) < 1:
            raise UserError(f"--layer-split: {self._layer_counts} leaves a rank without a layer; give each 1 or more")
        self._check_choice("sync_strategy", ["auto", *registry.choices("sync")])
        self._check_choice("prefill", ["auto", *registry.choices("prefill")])
        self._check_choice("decode", ["auto", *registry.choices("decode")])
        self._check_choice("sync_granularity", ["auto", *GRANULARITIES])
        self._check_choice("context_split", CONTEXT_SPLITS)
        self._check_choice("dtype", DTYPES)
        self._check_choice("kv_cache_dtype", KV_CACHE_DTYPES)
        self._check_choice("device", DEVICES)
        self._check_choice("cuda_aware", CUDA_AWARE)
        self._check_choice("kernels", KERNELS)
        if self.quantize is not None:
            self._check_choice("quantize", QUANTIZE)
        self._check_choice("activations", ACTIVATIONS)
        self._check_activations()
        if not 16 <= self.quantize_group_size <= _LARGEST_GROUP or self.quantize_group_size % 16:
            raise UserError(
                f"--quantize-group-size: {self.quantize_group_size} is no multiple of 16 up to {_LARGEST_GROUP}; give"
                " 32 or 64"
            )
        if self.mesh is not None:
            parse_mesh(self.mesh)
        self._check_sampling()
        self._check_guidance()
        if self.gpu_ids and self.device == "cpu":
            raise UserError("--gpu-ids: has no meaning with --device cpu; leave one of them out")
        self._check_outputs()
        if self.chat_template_kwargs is not None:
            check_template_variables("--chat-template-kwargs", self.chat_template_kwargs)
        for name in ("chat", "system", "chat_template_kwargs"):
            if self.prompt_ids is not None and getattr(self, name) not in (None, False):
                raise UserError(f"{option_name(name)}: --prompt-ids are used as they are; leave one of them out")

    @property
    def is_open(self) -> bool:
        """Whether a strategy is still to be chosen by what it would cost."""
        return "auto" in (self.prefill, self.decode, self.sync_granularity)

    @property
    def is_guided(self) -> bool:
        """Whether tokens are chosen by two sequences: the prompt's, and the one to steer away from."""
        return self.guidance_scale != 1

    @property
    def draws(self) -> Draws:
        """How tokens are drawn where a request says nothing of it; the seed must be there where it is needed."""
        return Draws(*(getattr(self, name) for name in DRAWS))

    def _check_outputs(self) -> None:
        if self.trace is not None and self.trace == self.json:
            raise UserError(f"--trace: {self.trace} is no file of its own; give another one")
        for name in ("trace", "log_dir"):
            require_name(option_name(name), getattr(self, name))

    def _check_activations(self) -> None:
        if self.activations == "exact":
            return
        if self.quantize != "int4":
            raise UserError(
                f"--activations: {self.activations} is for weights of 4 bits; add --quantize int4, or leave it out"
            )
        if self.kernels not in ("auto", "native", *_VARIANTS):
            raise UserError(
                f"--activations: {self.activations} is nothing that {self.kernels} kernels have; give --kernels native"
            )

    def require_one_prompt(self) -> None:
        """Raise UserError unless the prompt is given in exactly one way; a benchmark makes its own."""
        given = [name for name in ("prompt", "prompt_file", "prompt_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(map(option_name, given)) or "none"
            raise UserError(f"give exactly one of --prompt, --prompt-file and --prompt-ids (found: {found})")

    def require_layer_split(self, num_layers: int, num_stages: int) -> None:
        """Raise UserError unless each stage gets a layer, and given numbers are those of all layers and stages."""
        if num_stages > num_layers:
            raise UserError(
                f"{num_stages} stages, but {self.model} has {counted(num_layers, 'layer')}; start"
                f" {counted(num_layers, 'rank')} at most,"
                " or split layers as well: --mesh with tp, or --prefill tensor --decode tensor"
            )
        if not isinstance(self.layer_split, tuple):
            return
        if len(self.layer_split) != num_stages:
            raise UserError(
                f"--layer-split: {self._layer_counts} is for {counted(len(self.layer_split), 'stage')}, not"
                f" {num_stages}; give one number for each stage"
            )
        if sum(self.layer_split) != num_layers:
            raise UserError(
                f"--layer-split: {self._layer_counts} is {counted(sum(self.layer_split), 'layer')}, but"
                f" {self.model} has {num_layers}; give numbers that add up to {num_layers}"
            )

    def _check_sampling(self) -> None:
        for name in PENALTY_RANGES:
            if getattr(self, name) is not None:
                check_penalty(name, getattr(self, name), option_name(name))
        for name in DRAWS:
            if getattr(self, name) is not None:
                check_draw(name, getattr(self, name), option_name(name))
        if self.num_return_sequences > 1 and not self.temperature:
            raise UserError(
                f"--num-return-sequences: {self.num_return_sequences} greedy answers would all be the same; give"
                " --temperature above 0 too"
            )
        given = [name for name in ("top_k", "top_p", "seed") if getattr(self, name) != default_of(name)]
        if given and not self.temperature:
            names = " and ".join(map(option_name, given))
            raise UserError(f"{names}: no meaning without sampling; give --temperature above 0 too")

    def _check_guidance(self) -> None:
        if not abs(self.guidance_scale) <= _LARGEST_GUIDANCE:
            limits = f"from {-_LARGEST_GUIDANCE:g} to {_LARGEST_GUIDANCE:g}"
            raise UserError(f"--guidance-scale: {self.guidance_scale} is no number {limits}; give 1.5, or 1 for none")
        if not self.is_guided:
            if self.negative_prompt is not None:
                raise UserError("--negative-prompt: no meaning without guidance; give --guidance-scale 1.5 too")
            return
        if self.num_return_sequences > 1:
            raise UserError(
                f"--num-return-sequences: {self.num_return_sequences} answers are made by ranks alone, but"
                " --guidance-scale takes them together; leave one of them out"
            )
        for name in ("prefill", "decode"):
            if getattr(self, name) == "auto":
                raise UserError(f"--{name}: auto is not predicted for --guidance-scale; name one")
        if self.max_memory is not None:
            raise UserError("--max-memory: is not planned for --guidance-scale; leave one of them out")

    @property
    def _layer_counts(self) -> str:
        return ",".join(map(str, self.layer_split))

    def _check_choice(self, name: str, allowed: list[str] | tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise UserError(f"{option_name(name)}: {value!r} is unknown; choose one of {', '.join(allowed)}")


def option_name(field_name: str) -> str:
    """The command-line spelling of a field: `chunk_size` is `--chunk-size`."""
    return "--" + field_name.replace("_", "-")


def default_of(field_name: str) -> Any:
    """The default of a field of RunConfig, for the command line."""
    return next(field.default for field in fields(RunConfig) if field.name == field_name)
