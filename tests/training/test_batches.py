"""Packing, padding and the order of examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autopeft.training.batches import Encoded, Ragged, collate, evaluation_order, training_order

SEQUENCES = st.lists(st.lists(st.integers(0, 50_000), max_size=7), max_size=9)
CPU = torch.device("cpu")


@given(SEQUENCES)
def test_packing_loses_nothing(sequences: list[list[int]]) -> None:
    packed = Ragged.of(sequences)
    assert len(packed) == len(sequences)
    assert [packed[i].tolist() for i in range(len(packed))] == sequences
    assert packed.lengths.tolist() == [len(sequence) for sequence in sequences]
    assert packed.flat.dtype == np.int32


@given(SEQUENCES.filter(len), st.integers(-100, 0))
def test_padding_is_on_the_right_up_to_the_longest(sequences: list[list[int]], fill: int) -> None:
    padded = Ragged.of(sequences).padded(range(len(sequences)), fill)
    width = max(1, *(len(sequence) for sequence in sequences)) if len(sequences) > 1 else max(1, len(sequences[0]))
    assert padded.dtype == torch.int64
    assert padded.tolist() == [sequence + [fill] * (width - len(sequence)) for sequence in sequences]


def test_padding_to_a_given_width() -> None:
    assert Ragged.of([[1, 2], [3]]).padded([1, 0], 9, width=3).tolist() == [[3, 9, 9], [1, 2, 9]]


def test_a_batch_holds_what_a_model_takes() -> None:
    encoded = Encoded(Ragged.of([[5, 6, 7], [8], [9, 10]]), Ragged.of([[0, 0, 1], [0], [0, 1]]), np.array([1, 0, 1]))
    batch = collate(encoded, np.array([2, 0]), pad=4, device=CPU)
    assert batch.inputs["input_ids"].tolist() == [[9, 10, 4], [5, 6, 7]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert batch.labels.tolist() == [1, 1]
    assert batch.labels.dtype == torch.int64
    assert batch.indices.tolist() == [2, 0]
    assert batch.sizes is None
    assert batch.targets is None


def test_padding_is_masked_even_where_the_text_holds_the_padding_token() -> None:
    encoded = Encoded(Ragged.of([[0, 5], [0, 0, 0]]), None, np.array([0, 1]))
    assert collate(encoded, np.array([0, 1]), 0, CPU).inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_choices_are_rows_of_their_own() -> None:
    encoded = Encoded(Ragged.of([[1], [2, 2], [3], [4], [5, 5, 5]]), None, np.array([1, 0]), rows=np.array([0, 2, 5]))
    assert encoded.lengths.tolist() == [2, 3]
    batch = collate(encoded, np.array([1, 0]), 0, CPU)
    assert batch.inputs["input_ids"][:, 0].tolist() == [3, 4, 5, 1, 2]
    assert batch.sizes == (3, 2)
    assert batch.labels.tolist() == [0, 1]


def test_targets_are_padded_with_what_losses_ignore() -> None:
    encoded = Encoded(Ragged.of([[1], [2]]), None, np.array([0.5, 1.5]), targets=Ragged.of([[7, 1], [8, 9, 1]]))
    batch = collate(encoded, np.array([0, 1]), 0, CPU)
    assert batch.targets is not None
    assert batch.targets.tolist() == [[7, 1, -100], [8, 9, 1]]
    assert batch.labels.dtype == torch.float64


@given(st.lists(st.integers(1, 30), min_size=1, max_size=400), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_holds_every_example_once_and_one_short_batch_at_most(
    lengths: list[int], size: int, seed: int
) -> None:
    batches = list(training_order(np.array(lengths), size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert sum(len(batch) < size for batch in batches) <= 1
    assert len(batches) == -(-len(lengths) // size)


def test_the_order_is_decided_by_the_seed_and_differs_between_epochs() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 64)

    def order(seed: int, epochs: int = 1) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [np.concatenate(list(training_order(lengths, 8, rng))).tolist() for _ in range(epochs)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    first, second = order(1, epochs=2)
    assert first != second


def test_little_of_the_work_is_padding() -> None:
    """Batches of like length: of 1,600 sequences of 5 to 60 tokens less than 10 % of all positions is padding."""
    lengths = np.random.default_rng(0).integers(5, 61, 1_600)
    batches = list(training_order(lengths, 16, np.random.default_rng(1)))
    positions = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert positions < 1.1 * lengths.sum()
    # ... and the order is not that of length: neighbouring batches differ.
    means = [float(lengths[batch].mean()) for batch in batches]
    assert means != sorted(means)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 9))
def test_evaluation_goes_from_long_to_short(lengths: list[int], size: int) -> None:
    batches = list(evaluation_order(np.array(lengths, dtype=np.int64), size))
    order = [int(i) for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)


@pytest.mark.parametrize("sequences", [[], [[]]])
def test_nothing_is_packed_too(sequences: list[list[int]]) -> None:
    assert Ragged.of(sequences).flat.size == 0
    assert len(Ragged.of(sequences)) == len(sequences)
