"""The order of batches: a function of seed and epoch, whatever the number of processes."""

from __future__ import annotations

from itertools import chain, islice, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import ONE, splitmix

from timm_jackpot.data import steps_per_epoch
from timm_jackpot.data.source import epoch_order, eval_order, sample_hash, train_order
from timm_jackpot.runtime.processes import Shard


@given(n=st.integers(1, 60), batch=st.integers(1, 9), ranks=st.integers(1, 4), epoch=st.integers(0, 5))
def test_an_epoch_is_full_batches_of_distinct_samples(n: int, batch: int, ranks: int, epoch: int) -> None:
    batches = [list(epoch_order(n, seed=3, epoch=epoch, batch_size=batch, shard=Shard(r, ranks))) for r in range(ranks)]
    steps = steps_per_epoch(n, batch, Shard(0, ranks))
    assert [len(mine) for mine in batches] == [steps] * ranks
    seen = [i for mine in batches for indices in mine for i in indices.tolist()]
    assert len(seen) == len(set(seen)) == steps * ranks * batch
    assert set(seen) <= set(range(n))


@given(n=st.integers(4, 40), first=st.integers(0, 30), stratified=st.booleans())
def test_epochs_follow_one_another_wherever_a_run_goes_on(n: int, first: int, stratified: bool) -> None:
    kwargs = {"seed": 3, "batch_size": 2, "shard": Shard(1, 2), "labels": torch.arange(n) % 3 if stratified else None}
    epochs = [[(epoch, b.tolist()) for b in epoch_order(n, epoch=epoch, **kwargs)] for epoch in range(40)]
    batches = islice(train_order(n, first=first, **kwargs), 10)
    assert [(epoch, indices.tolist()) for epoch, indices in batches] == list(chain.from_iterable(epochs))[
        first : first + 10
    ]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(list(epoch_order(50, seed=seed, epoch=epoch, batch_size=5, shard=ONE))).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_shards_read_what_one_large_shard_would() -> None:
    both = [list(epoch_order(50, seed=1, epoch=2, batch_size=4, shard=Shard(rank, 2))) for rank in (0, 1)]
    whole = list(epoch_order(50, seed=1, epoch=2, batch_size=8, shard=ONE))
    assert [torch.cat(pair).tolist() for pair in zip(*both, strict=True)] == [indices.tolist() for indices in whole]


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_with_labels_every_class_comes_at_its_own_even_pace(sizes: list[int], batch: int, seed: int) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    order = torch.cat(
        [*epoch_order(len(labels), seed=seed, epoch=1, batch_size=1, shard=ONE, labels=labels), labels[:0]]
    )
    assert sorted(order.tolist()) == list(range(len(labels)))
    for one, m in enumerate(sizes):
        for other, k in enumerate(sizes):
            # Between two neighbours of one class lies 1/m of the way, and in it of another class k/m, give or take one.
            places = (labels[order] == one).nonzero().flatten().tolist()
            for low, high in pairwise(places):
                between = int((labels[order[low:high]] == other).sum())
                assert abs(between - k / m) <= 1
    batches = list(epoch_order(len(labels), seed=seed, epoch=1, batch_size=batch, shard=ONE, labels=labels))
    assert [sorted(one.tolist()) for one in batches] == [
        sorted(one.tolist()) for one in order.split(batch) if len(one) == batch
    ]


def test_where_an_image_stands_in_a_spread_batch_does_not_tell_its_class() -> None:
    """Else labels that are shuffled within a batch, as an audit does, could be learned."""
    labels = torch.arange(6400) % 10
    order = list(epoch_order(6400, seed=0, epoch=0, batch_size=64, shard=ONE, labels=labels))
    pairs = torch.zeros(10, 10)
    for batch in order:
        classes = labels[batch]
        pairs.index_put_((classes, classes.roll(1)), torch.tensor(1.0), accumulate=True)
    assert pairs.min() > 30  # 64 expected in each, on the diagonal 55; standard deviation 8
    assert pairs.max() < 110


def test_shards_of_spread_batches_read_what_one_large_shard_would() -> None:
    labels = torch.arange(50) % 4
    both = [
        list(epoch_order(50, seed=1, epoch=2, batch_size=4, shard=Shard(rank, 2), labels=labels)) for rank in (0, 1)
    ]
    whole = list(epoch_order(50, seed=1, epoch=2, batch_size=8, shard=ONE, labels=labels))
    assert [torch.cat(pair).tolist() for pair in zip(*both, strict=True)] == [indices.tolist() for indices in whole]
    later = epoch_order(50, seed=1, epoch=2, batch_size=8, shard=ONE, labels=labels, first=3)
    assert [batch.tolist() for batch in later] == [batch.tolist() for batch in whole[3:]]


def test_spread_orders_differ_by_seed_and_epoch_and_within_a_class() -> None:
    labels = torch.arange(60) % 3

    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_order(60, seed=seed, epoch=epoch, batch_size=6, shard=ONE, labels=labels)
        return torch.cat(list(batches)).tolist()

    assert order(1, 2) == order(1, 2)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(one) for one in orders}) == 9
    assert len({tuple(i for i in one if labels[i] == 0) for one in orders}) == 9


@given(n=st.integers(0, 60), batch=st.integers(1, 9), ranks=st.integers(1, 4))
def test_evaluation_covers_every_image_once(n: int, batch: int, ranks: int) -> None:
    parts = [list(eval_order(n, batch_size=batch, shard=Shard(rank, ranks))) for rank in range(ranks)]
    assert sorted(i for part in parts for indices in part for i in indices.tolist()) == list(range(n))
    assert all(0 < len(indices) <= batch for part in parts for indices in part)


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**4), index=st.integers(0, 10**8))
def test_the_hash_of_a_sample_is_splitmix(seed: int, epoch: int, index: int) -> None:
    assert sample_hash(seed, epoch, torch.tensor([index])).tolist() == [splitmix(seed, epoch, index)]


def test_draws_are_spread_evenly_and_independently() -> None:
    draws = sample_hash(0, 0, torch.arange(20_000))
    top, left, flip = draws % 9, (draws >> 12) % 9, ((draws >> 24) & 0xFFFF) < 0x8000
    cells = torch.bincount((top * 9 + left) * 2 + flip, minlength=162)
    assert cells.min() > 70  # 123 expected in each, standard deviation 11
    assert cells.max() < 180
    assert (draws == sample_hash(0, 1, torch.arange(20_000))).sum() == 0
