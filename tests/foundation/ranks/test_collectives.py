"""Alone, a process is the first of one; two processes add in rank order."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing as mp

from crosstune.foundation import ranks
from crosstune.foundation.errors import DataError
from crosstune.foundation.ranks.collectives import by_each, by_first


def test_alone_everything_is_its_own():
    assert (ranks.rank(), ranks.world_size(), ranks.is_first()) == (0, 1, True)
    tensor = torch.tensor([1.0, 2.0])
    assert torch.equal(ranks.sum_over_ranks(tensor), tensor)
    assert ranks.gather_over_ranks("x") == ["x"]
    assert ranks.from_first(3) == 3
    ranks.wait_for_all()


def _worker(number: int, port: int, folder: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=number, world_size=2)
    result = {
        "sum": ranks.sum_over_ranks(torch.tensor([number + 1], dtype=torch.int64)).item(),
        "gathered": ranks.gather_over_ranks(f"rank {number}"),
        "first": ranks.from_first(number),
    }
    ranks.wait_for_all()
    torch.save(result, f"{folder}/{number}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_see_the_same(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(port, str(tmp_path)), nprocs=2)
    for number in range(2):
        assert torch.load(tmp_path / f"{number}.pt") == {
            "sum": 3,
            "gathered": ["rank 0", "rank 1"],
            "first": 0,
        }


def test_one_process_is_the_first_and_all() -> None:
    assert by_each(lambda: 3) == [3]
    assert by_first(lambda: None) is None


def test_its_error_is_raised() -> None:
    def fail() -> None:
        raise DataError("rows", law="must be", found="not", remedy="Do.")

    for run in (by_each, by_first):
        with pytest.raises(DataError, match="`rows` must be; found not. Do."):
            run(fail)


def test_an_error_that_is_no_user_error_is_not_held_back() -> None:
    with pytest.raises(ZeroDivisionError):
        by_each(lambda: 1 // 0)
