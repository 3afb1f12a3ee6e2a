"""How much faster is the prefill of a model with experts on several ranks of one thread than on one? In turn, A B A B.

    .venv/bin/python -m benchmarks.experts [--ranks 2] [--prompt-tokens 1024] [--chunk-size 512] [--rounds 5]

The model has 16 experts a layer and random weights. With --mesh ep=P the ranks have whole experts each, with --mesh
tp=P columns of all of them; with --prefill ulysses or ring each has some of the tokens, too, and sends them to their
experts. Prints the median of the ratios, and how evenly the experts and the ranks were used.
"""

import statistics

import click

from benchmarks import machine, random_model
from benchmarks.launches import prefill_case, speed_of


@click.command()
@click.option("--model", default="qwen3-moe-428m", show_default=True, type=click.Choice(list(random_model.SHAPES)))
@click.option("--prompt-tokens", default=1024, show_default=True)
@click.option("--chunk-size", default=512, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--ranks", default=2, show_default=True)
@click.option("--mesh", help="Of the several ranks.  [default: ep=RANKS]")
@click.option("--prefill", default="tensor", show_default=True, help="Of the several ranks.")
def main(
    model: str, prompt_tokens: int, chunk_size: int, rounds: int, ranks: int, mesh: str | None, prefill: str
) -> None:
    """Print the speed-up of the prefill by spreading experts."""
    machine.tell()
    options = ["--model", str(random_model.get(model)), "--prompt-tokens", str(prompt_tokens)]
    options += ["--chunk-size", str(chunk_size)]
    mesh, ratios = mesh or f"ep={ranks}", []
    for number in range(rounds):
        alone = prefill_case(options, 1)
        together = prefill_case([*options, "--mesh", mesh, "--prefill", prefill, "--decode", "tensor"], ranks)
        ratios.append(together["median"] / alone["median"])
        shown = f"{speed_of(alone)} on 1, {speed_of(together)} on {ranks}"
        click.echo(f"round {number + 1}: {shown}: {ratios[-1]:.3f} times")
    imbalance = together["experts"]["imbalance"]
    how = f"{mesh}, prefill {prefill}, one thread a rank"
    click.echo(f"{model}, {prompt_tokens} tokens in chunks of {chunk_size}, {how}")
    click.echo(f"speed-up {statistics.median(ratios):.3f}")
    click.echo(f"most over mean: experts {imbalance['experts']:.2f}, ranks {imbalance['ranks']:.2f}")


if __name__ == "__main__":
    main()
