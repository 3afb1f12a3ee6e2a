"""How much faster is the prefill on several ranks of one thread than on one? Runs both in turn, A B A B.

    .venv/bin/python -m benchmarks.prefill_scaling [--model M] [--prompt-tokens 1024] [--chunk-size 128] [--rounds 5]

Prints the median of the ratios, the pipeline's ideal P*M/(M+P-1) for M chunks on P ranks, and the exposed sync as a
share of the prefill.
"""

import statistics

import click

from benchmarks import machine
from benchmarks.launches import prefill_case, speed_of


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--prompt-tokens", default=1024, show_default=True)
@click.option("--chunk-size", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--ranks", default=2, show_default=True)
def main(model: str, prompt_tokens: int, chunk_size: int, rounds: int, ranks: int) -> None:
    """Print the speed-up of the prefill on several ranks of one thread each."""
    machine.tell()
    options = ["--model", model, "--prompt-tokens", str(prompt_tokens), "--chunk-size", str(chunk_size)]
    alone, together = [], []
    for number in range(rounds):
        alone.append(prefill_case(options, 1))
        together.append(prefill_case(options, ranks))
        ratio = together[-1]["median"] / alone[-1]["median"]
        click.echo(
            f"round {number + 1}: {speed_of(alone[-1])} on 1, {speed_of(together[-1])} on {ranks}: {ratio:.3f} times"
        )
    chunks = -(-prompt_tokens // chunk_size)
    ideal = ranks * chunks / (chunks + ranks - 1)
    speedup = statistics.median(b["median"] / a["median"] for a, b in zip(alone, together, strict=True))
    exposed = statistics.median(case["sync_exposed_share"] for case in together)
    click.echo(f"{model}, {prompt_tokens} tokens in {chunks} chunks of {chunk_size}, one thread a rank")
    click.echo(f"speed-up {speedup:.3f} of the ideal {ideal:.3f} ({speedup / ideal:.1%})")
    click.echo(f"exposed sync {exposed:.2%} of the prefill")


if __name__ == "__main__":
    main()
