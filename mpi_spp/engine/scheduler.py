"""What an engine does next: pure, so that all ranks that are told the same decide the same. Nobody reads a clock."""


class Scheduler:
    """Shares the ranks between prompts that are prefilled and sequences that are decoded."""

    def __init__(self, most: int | None = None, ticks: int | None = None, together: bool = False) -> None:
        """`most`: sequences under way at once, None: any number.

        `ticks`: of the prefill between two tokens of a sequence that is decoded; None: as many as the prompts that are
        there need, which is the most tokens in all, since a step costs much the same for few sequences as for many.
        `together`: prompts that are prefilled wait for one another before any of them is decoded.
        """
        if most is not None and most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        if ticks is not None and ticks < 1:
            raise ValueError(f"ticks must be at least 1, got {ticks}")
        self._most, self.ticks, self._together = most, ticks, together
        self._was_prefill = False

    def room(self, under_way: int, has_to_wait: bool = False) -> int | None:
        """How many more sequences may come now; None: any number. `has_to_wait`: none before all others have gone."""
        if has_to_wait and under_way:
            return 0
        return None if self._most is None else max(0, self._most - under_way)

    def join_now(self, prefilling: int) -> bool:
        """Whether prompts whose prefill is done are decoded from now on, while so many others are prefilled."""
        return not self._together or not prefilling

    def prefills_next(self, prefilling: int, decoding: int) -> bool:
        """Whether prompts move on next, by `ticks` at most, or else each sequence that is decoded by a token.

        So many are in either phase. Neither waits for more than one turn of the other, but for what `ticks` None says.
        """
        waits = decoding > 0 and self.ticks is not None and self._was_prefill
        self._was_prefill = prefilling > 0 and not waits
        return self._was_prefill
