"""Attention over some of the keys, and how such parts become one: all in float32."""

from typing import NamedTuple

import torch


class Part(NamedTuple):
    """What rows make of some of the keys: outputs [..., heads, size], and log-sum-exp [..., heads] of their scores.

    A row that sees none of these keys has outputs of 0 and -inf.
    """

    outputs: torch.Tensor
    log_sums: torch.Tensor


def nothing(*shape: int, device: torch.device | None = None) -> Part:
    """The part of rows that see no key; `shape`: of the outputs."""
    return Part(torch.zeros(shape, device=device), torch.full(shape[:-1], float("-inf"), device=device))


def merge(one: Part, other: Part) -> Part:
    """What the same rows make of the keys of both (Ring Attention: Liu et al., 2023)."""
    ahead = (one.log_sums - other.log_sums).nan_to_num_(nan=0.0)  # of two that see nothing: -inf less -inf
    outputs = torch.lerp(other.outputs, one.outputs, ahead.sigmoid_()[..., None])
    return Part(outputs, torch.logaddexp(one.log_sums, other.log_sums))


def merge_all(parts: Part) -> torch.Tensor:
    """The outputs of many parts, which lie along a first dim of their own."""
    weights = torch.softmax(parts.log_sums, dim=0)  # of what each part has summed up
    return (parts.outputs * weights[..., None]).sum(dim=0)
