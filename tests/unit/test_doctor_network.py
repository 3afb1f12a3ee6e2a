"""Findings about what is between hosts, from facts of hosts that are not here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from doctor_jobs import eth, found, job_of, rank_on, the

from mpi_spp.instruments.doctor.facts import ClockOffset, JobFacts, Link
from mpi_spp.instruments.doctor.finding import Level
from mpi_spp.instruments.doctor.interfaces import Interface, Route
from mpi_spp.instruments.doctor.job import rounds_of_pairs


def two_hosts(first: Sequence[Interface], second: Sequence[Interface], **facts: Any) -> JobFacts:
    ranks = [rank_on(f"node{n}", interfaces=tuple(own)) for n, own in enumerate((first, second), start=1)]
    return job_of(*ranks, **facts)


def test_the_interface_between_two_hosts() -> None:
    job = two_hosts([eth(1), eth(1, "eth1", network="10.9.9")], [eth(2)])
    finding = the(job, "interface", "eth0 (1000 Mbit/s)")  # the same of both
    assert (finding.level, finding.hosts, finding.ranks) == (Level.OK, ("node1", "node2"), (0, 1))
    assert "eth1" not in finding.what


def test_several_interfaces_and_none_chosen() -> None:
    both = [[eth(n), eth(n, "ib0", 100000, "10.1.0")] for n in (1, 2)]
    finding = found(two_hosts(*both), "interface")[0]
    assert finding.level is Level.NOTE
    assert "eth0 (1000 Mbit/s), ib0 (100000 Mbit/s)" in finding.what and "10.1.0.0/24" in finding.do
    chosen = {"OMPI_MCA_btl_tcp_if_include": "ib0"}
    ranks = [rank_on(f"node{n}", interfaces=tuple(own), variables=chosen) for n, own in enumerate(both)]
    assert all(finding.level is Level.OK for finding in found(job_of(*ranks), "interface"))


def test_a_bridge_with_the_same_address_everywhere() -> None:
    bridge = Interface("docker0", "172.17.0.1/16")
    job = two_hosts([eth(1), bridge], [eth(2), bridge])
    (warning,) = [finding for finding in found(job, "interface") if finding.level is Level.WARNING]
    assert "docker0 has the address 172.17.0.1" in warning.what and "10.0.0.0/24" in warning.do
    assert warning.hosts == ("node1", "node2")


def test_a_host_behind_a_router_or_behind_nothing() -> None:
    far = [eth(2, network="10.7.7")]
    routed = job_of(
        rank_on(interfaces=(eth(1),), routes=(Route("eth0", "0.0.0.0/0"),)),
        rank_on("node2", interfaces=tuple(far), routes=(Route("eth0", "0.0.0.0/0"),)),
    )
    assert all(finding.level is Level.OK for finding in found(routed, "interface"))
    assert all("no route" in finding.what for finding in found(two_hosts([eth(1)], far), "interface"))


def test_a_link_is_slower_than_its_interface() -> None:
    slow = the(two_hosts([eth(1)], [eth(2)], links=(Link(0, 1, 1e-4, 1e7),)), "link", "10 MB/s", "125 MB/s")
    assert (slow.level, slow.ranks) == (Level.WARNING, (0, 1))
    assert the(two_hosts([eth(1)], [eth(2)], links=(Link(0, 1, 1e-4, 1e8),)), "link").level is Level.OK


def test_a_link_inside_a_host() -> None:
    apart = [rank_on(cores=(core,), host_cores=2) for core in (0, 1)]
    assert the(job_of(*apart, links=(Link(0, 1, 1e-6, 5e9),)), "link", "1 us, 5e+03 MB/s").level is Level.OK
    assert the(job_of(*apart, links=(Link(0, 1, 3e-5, 5e8),)), "link", "slow for one host").level is Level.NOTE
    together = [rank_on(cores=(0,), host_cores=1)] * 2
    assert the(job_of(*together, links=(Link(0, 1, 3e-5, 5e8),)), "link").level is Level.OK


def test_clocks() -> None:
    apart = two_hosts([eth(1)], [eth(2)], clocks=(ClockOffset(1, -12.5, 0.001),))
    assert the(apart, "clock", "-12.5 s from that of node1").hosts == ("node2",)
    assert the(replace(apart, clocks=(ClockOffset(1, 0.002, 0.001),)), "clock", "within 2 ms").level is Level.OK
    assert the(replace(apart, clocks=(ClockOffset(1, 0.3, 0.29),)), "clock").level is Level.OK  # not known better


@pytest.mark.parametrize("count", range(1, 9))
def test_every_pair_once_and_nobody_twice_at_a_time(count: int) -> None:
    ranks = [10 * number for number in range(count)]
    rounds = rounds_of_pairs(ranks)
    pairs = [pair for one in rounds for pair in one]
    assert sorted(pairs) == [(a, b) for a in ranks for b in ranks if a < b]
    assert all(len({rank for pair in one for rank in pair}) == 2 * len(one) for one in rounds)
    assert len(rounds) <= count
