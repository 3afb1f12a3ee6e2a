"""Parts of attention become one as softmax over all keys has it, whatever of them is empty."""

import torch

from mpi_spp.kernels.merge import Part, merge, merge_all, nothing


def part_of(scores: torch.Tensor, values: torch.Tensor) -> Part:
    """Of scores [heads, keys] and values [keys, size], in float64."""
    return Part(torch.softmax(scores, dim=-1) @ values, scores.logsumexp(dim=-1))


def test_two_parts_are_one() -> None:
    torch.manual_seed(0)
    scores, values = 30 * torch.randn(5, 12, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    whole = part_of(scores, values)
    for cut in range(1, 12):
        parts = [part_of(scores[:, some], values[some]) for some in (slice(cut), slice(cut, 12))]
        for merged in (merge(*parts), merge(*reversed(parts))):
            assert torch.allclose(merged.outputs, whole.outputs) and torch.allclose(merged.log_sums, whole.log_sums)
        stacked = Part(*(torch.stack(each) for each in zip(*parts, strict=True)))
        assert torch.allclose(merge_all(stacked), whole.outputs)


def test_what_sees_no_key_changes_nothing() -> None:
    torch.manual_seed(0)
    some, none = Part(torch.randn(4, 2, 3), torch.randn(4, 2)), nothing(4, 2, 3)
    for merged in (merge(some, none), merge(none, some)):
        assert torch.equal(merged.outputs, some.outputs) and torch.equal(merged.log_sums, some.log_sums)
    empty = merge(none, none)
    assert torch.equal(empty.outputs, torch.zeros(4, 2, 3)) and empty.log_sums.eq(float("-inf")).all()
    assert torch.equal(
        merge_all(Part(*(torch.stack(each) for each in zip(none, some, none, strict=True)))), some.outputs
    )


def test_sums_far_apart_do_not_overflow() -> None:
    one, other = (
        Part(torch.ones(1, 1, 2), torch.full((1, 1), 3e4)),
        Part(torch.zeros(1, 1, 2), torch.full((1, 1), -3e4)),
    )
    for merged in (merge(one, other), merge(other, one)):
        assert torch.equal(merged.outputs, one.outputs) and torch.equal(merged.log_sums, one.log_sums)
