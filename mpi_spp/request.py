"""What an engine is asked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A prompt, and where its answer ends. `stream` tells its draws from those of other requests with the same seed."""

    prompt_ids: list[int]
    stop_ids: frozenset[int]
    max_new_tokens: int
    stream: int = 0

    def ends_with(self, token: int, taken: int) -> bool:
        """Whether this token, so many with it, is the answer's last one."""
        return token in self.stop_ids or taken == self.max_new_tokens
