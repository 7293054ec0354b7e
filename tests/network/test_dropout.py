import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig

from autopeft.backbones import Backbone, families
from autopeft.network.dropout import drawing_apart, dropout, from_one_state, quick_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_at_the_rate_and_the_mean_is_kept(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 400_001  # no multiple of the lanes
    out = dropout(torch.ones(n, dtype=dtype), p, training=True)
    dropped = float((out == 0).double().mean())
    # Six standard deviations of a binomial rate, and the rate's own rounding: fails by chance once in 5e8.
    assert abs(dropped - p) < 6 * (p * (1 - p) / n) ** 0.5 + 2**-17
    kept = out[out != 0].unique()
    assert len(kept) == 1
    torch.testing.assert_close(
        kept.float(), torch.tensor([1 / (1 - p)]), rtol=1e-2 if dtype.itemsize == 2 else 1e-4, atol=0
    )


def test_neighbours_are_dropped_independently() -> None:
    """Four elements share a draw: the correlation of any two of them is that of independent ones."""
    torch.manual_seed(1)
    n = 200_000
    kept = (dropout(torch.ones(n, 4), 0.3, training=True) > 0).double()
    correlation = torch.corrcoef(kept.T)
    off_diagonal = correlation[~torch.eye(4, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 6 / n**0.5  # six standard deviations, twelve values: once in 4e7


def test_the_gradient_goes_where_the_value_went() -> None:
    torch.manual_seed(2)
    x = torch.randn(3, 5, 7, requires_grad=True)
    out = dropout(x, 0.4, training=True)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad * x, out)


def test_rates_of_0_and_1_and_evaluation_are_exact() -> None:
    x = torch.randn(8)
    assert dropout(x, 0.1, training=False) is x
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert not dropout(x, 1.0, training=True).any()
    # However small the rate is, something can be dropped, and however large, something kept.
    assert torch.isfinite(dropout(x, 1e-9, training=True)).all()
    assert torch.isfinite(dropout(x, 1 - 1e-9, training=True)).all()


def test_the_seed_decides() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.5, training=True)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_recomputation_drops_the_same() -> None:
    layer = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.randn(8, 16)

    def gradient(is_checkpointed: bool) -> Tensor:
        torch.manual_seed(5)
        layer.zero_grad()
        out = checkpoint(layer, x, use_reentrant=False) if is_checkpointed else layer(x)
        out.square().sum().backward()
        found = layer[0].weight.grad
        assert isinstance(found, Tensor)
        return found.clone()

    with quick_dropout(layer):
        assert torch.equal(gradient(True), gradient(False))


def test_layers_are_as_before_afterwards() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.2), nn.ReLU()))
    before = [dict(vars(module)) for module in model.modules()]
    torch.manual_seed(0)
    with quick_dropout(model):
        quick = model(torch.ones(1000))
    assert [dict(vars(module)) for module in model.modules()] == before
    torch.manual_seed(0)
    assert not torch.equal(model(torch.ones(1000)), quick)


@pytest.mark.parametrize("family", sorted(families()))
def test_one_rate_takes_the_place_of_every_rate_of_a_family(family: str) -> None:
    found = families()[family]
    # Rates are 0.1 unless the family's attention alone has one, or the sums behind its blocks (Falcon) have.
    rates = {"attention_dropout": 0.1, "hidden_dropout": 0.1}
    config = AutoConfig.for_model(found.model_types[0], **{**found.tiny, **rates})
    backbone = Backbone.from_config(config)
    inputs = {"input_ids": torch.arange(14).view(2, 7)}
    if found.is_text_to_text:
        inputs["decoder_input_ids"] = torch.arange(6).view(2, 3)
    model = backbone.model
    expected = model.eval()(**inputs)[0]
    model.train()
    assert not torch.allclose(model(**inputs)[0], expected)
    with quick_dropout(model, 0.0):
        torch.testing.assert_close(model(**inputs)[0], expected)
    with quick_dropout(model, None):
        assert not torch.allclose(model(**inputs)[0], expected)
    assert not torch.allclose(model(**inputs)[0], expected)


def test_the_rates_return_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0))
    seen: list[float] = []

    def stop() -> None:
        seen.extend(layer.p for layer in model)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), quick_dropout(model, 0.3):
        stop()
    assert seen == [0.3, 0.3]
    assert [layer.p for layer in model] == [0.5, 0]


def test_a_layer_drops_the_same_whatever_was_dropped_before_it() -> None:
    """What makes architectures comparable: a longer prefix leaves the later layers' masks as they are."""

    def second(first: int) -> Tensor:
        torch.manual_seed(3)
        dropout(torch.ones(first), 0.5, training=True)
        return dropout(torch.ones(100), 0.5, training=True)

    assert torch.equal(second(7), second(70_000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_share_is_given_the_mask_that_one_alone_is_given(dtype: torch.dtype) -> None:
    def draw(x: Tensor, rows: int | None) -> Tensor:
        torch.manual_seed(3)
        return dropout(x, 0.5, training=True, rows=rows)

    x = torch.randn(6, 5, 4, dtype=dtype)
    shares = draw(x, 2)
    assert torch.equal(shares, torch.cat([draw(part, None) for part in x.split(2)]))
    assert torch.equal(draw(x, 6), draw(x, None))
    layer = nn.Dropout(0.5)
    torch.manual_seed(3)
    with quick_dropout(layer, rows=lambda: 2):
        assert torch.equal(layer(x), shares)


def test_what_is_drawn_apart_changes_nothing_for_others() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)

    def drawn(name: str) -> Tensor:
        torch.manual_seed(4)
        with drawing_apart(name):
            found = torch.rand(50)
        assert torch.equal(torch.rand(3), expected)
        return found

    assert torch.equal(drawn("a"), drawn("a"))
    assert not torch.equal(drawn("a"), drawn("b"))


def test_draws_are_repeated_from_one_state() -> None:
    torch.manual_seed(4)
    found = [torch.rand(3) for _ in from_one_state(3)]
    after = torch.rand(1)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.manual_seed(4)
    torch.rand(3)
    assert torch.equal(after, torch.rand(1))
