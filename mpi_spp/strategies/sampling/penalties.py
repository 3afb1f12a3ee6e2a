"""Penalties for tokens that a text has already, on one rank's slice of the vocabulary.

Source: Keskar et al., 2019, "CTRL" (repetition_penalty); the other two are OpenAI's. As in vLLM the repetition penalty
comes first, and all of them before temperature, top-k and top-p; as in transformers it is float32 arithmetic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from mpi_spp.request import NO_PENALTIES, Penalties, Request


class Adjust(Protocol):
    """How a row's scores change before a token is selected."""

    @property
    def stretch(self) -> float:
        """By how much the distance of two scores may grow."""

    def __call__(self, scores: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 scores [places] for those of some places of the slice; None: of the whole slice."""


class Seen:
    """The tokens of one sequence, as far as they belong to a slice of the vocabulary, and what that does to scores."""

    def __init__(
        self, penalties: Penalties, prompt_ids: Iterable[int], vocabulary: range, device: torch.device | str = "cpu"
    ) -> None:
        self._penalties, self._vocabulary = penalties, vocabulary
        self._is_seen = torch.zeros(len(vocabulary), dtype=torch.bool, device=device)  # in the prompt or the answer
        self._counts = torch.zeros(len(vocabulary), device=device)  # in the answer
        places = [token - vocabulary.start for token in set(prompt_ids) if token in vocabulary]
        self._is_seen[torch.tensor(places, dtype=torch.long, device=device)] = True
        self.stretch = max(penalties.repetition_penalty, 1 / penalties.repetition_penalty)

    def add(self, token: int) -> None:
        """The answer has one more token."""
        if token in self._vocabulary:
            place = token - self._vocabulary.start
            self._is_seen[place] = True
            self._counts[place] += 1

    def __call__(self, scores: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """See Adjust."""
        is_seen, counts = self._is_seen, self._counts
        if places is not None:
            is_seen, counts = is_seen[places], counts[places]
        penalty = self._penalties.repetition_penalty
        scores = torch.where(is_seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        return scores - self._penalties.frequency_penalty * counts - self._penalties.presence_penalty * (counts > 0)


def seen_of(request: Request, vocabulary: range, device: torch.device) -> Seen | None:
    """What the penalties of a request need to know of its tokens; None where it has no penalties."""
    if request.penalties == NO_PENALTIES:
        return None
    ids = request.prompt_ids if request.penalized_ids is None else request.penalized_ids
    return Seen(request.penalties, ids, vocabulary, device)


@dataclass(frozen=True)
class Shifted:
    """Scores are shifted before they are adjusted: a repetition penalty asks whether they are above 0."""

    adjust: Adjust
    shift: float

    @property
    def stretch(self) -> float:
        """See Adjust."""
        return self.adjust.stretch

    def __call__(self, scores: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """See Adjust."""
        return self.adjust(scores + self.shift, places)
