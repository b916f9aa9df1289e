"""Products made once per study give the edits that products of each edit's own give."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from random_models import ALL, logits, random_model
from tiny_models import D_MODEL, LAYERS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from heretic.ablation import products, weight_writer
from heretic.ablation.directions import AblationDirections
from heretic.ablation.editors import make_editor
from heretic.ablation.linalg import pieces
from heretic.ablation.parameters import AblationParameters, ComponentParameters
from heretic.ablation.plan import Edit, plan_edits
from heretic.ablation.projection import NormPreservation, ablate_matrix
from heretic.ablation.weight_editor import WeightEditor
from heretic.ablation.weight_writer import write_difference
from heretic.ablation.weights_cache import LayerWeightsCache
from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.model.stream_writers.components import COMPONENTS

# Dense, transposed, behind a norm's gain, and three layouts of experts.
FAMILIES = ("llama", "gpt2", "gemma2", "mixtral", "gpt_oss")
WHOLE, WEAK = (
    dict.fromkeys(COMPONENTS, ComponentParameters(0, 1, weight)) for weight in (1.0, 0.7)
)
PARAMETERS = [
    AblationParameters("per_layer", None, WHOLE),
    AblationParameters("global", 1.3, WEAK),
]


def study(k: int, seed: int = 0) -> AblationDirections:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(LAYERS + 1, D_MODEL, k, generator=draw)).Q.mT
    return AblationDirections.of(rows, torch.tensor([[1.0, 0.5][:k]] * (LAYERS + 1)))


def edits_of(model: Model, directions: AblationDirections, number: int) -> list[Edit]:
    return plan_edits(PARAMETERS[number], directions, model.anatomy)


def state(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """With how many rows each reading of a matrix multiplied it."""
    seen: list[int] = []

    def note(weight: Tensor, rows: Tensor, *others: Any, **more: Any) -> products.DirectionProducts:
        seen.append(len(rows))
        return measure(weight, rows, *others, **more)

    measure = products.measure
    monkeypatch.setattr(products, "measure", note)
    return seen


@pytest.mark.parametrize(
    ("family", "kind", "k"),
    [
        *((family, "none", 1) for family in FAMILIES),
        *(("llama", kind, 2) for kind in ALL),
        ("gpt2", "column", 1),
        ("gpt2", "row", 2),
        ("gemma2", "row", 1),
        ("gemma2", "column", 2),
        ("mixtral", "frobenius", 2),
        ("gpt_oss", "column", 2),
        ("gpt_oss", "row", 1),
    ],
)
def test_edited_weights_are_the_same(
    family: str, kind: NormPreservation, k: int, rows_read: list[int]
) -> None:
    model, directions = random_model(family, torch.float32), study(k)
    original, cache = state(model), LayerWeightsCache(model.anatomy)
    plain = WeightEditor(model, cache, kind)
    editor = WeightEditor(model, cache, kind, directions)

    for number in (0, 1):
        plain.abliterate(edits_of(model, directions, number))
        expected = state(model)
        plain.restore()
        editor.abliterate(edits_of(model, directions, number))
        for name, tensor in state(model).items():
            size = original[name].abs().max()
            assert (tensor - expected[name]).abs().max() <= 2e-5 * size, name
        assert not same(state(model), original)
        editor.restore()
        assert same(state(model), original)

    assert rows_read == [k * (LAYERS + 1)] * len(model.anatomy.writers)


@pytest.mark.parametrize(
    ("family", "kind", "k"),
    [
        ("llama", "column", 1),
        ("gpt2", "column", 2),
        ("llama", "row", 2),
        ("gpt2", "frobenius", 1),
        ("gemma2", "row", 2),
    ],
)
def test_edited_outputs_are_the_same(
    family: str, kind: NormPreservation, k: int, rows_read: list[int]
) -> None:
    directions = study(k)
    one, other = random_model(family, torch.float32), random_model(family, torch.float32)
    plain = make_editor(one, "hooks", kind, "auto")
    editor = make_editor(other, "hooks", kind, "auto", directions=directions)

    for number in (0, 1):
        plain.abliterate(edits_of(one, directions, number))
        editor.abliterate(edits_of(other, directions, number))
        assert (logits(one) - logits(other)).abs().max() < 1e-4 * logits(one).abs().max()

    count = len(one.anatomy.writers)
    assert rows_read.count(k * (LAYERS + 1)) == count
    assert rows_read.count(k) == 2 * count


@pytest.mark.parametrize("engine", ["weights", "hooks"])
def test_directions_of_another_study_do_without(engine: str, rows_read: list[int]) -> None:
    """As those of a control, which are random."""
    kind: NormPreservation = "row"
    one, other = random_model("llama", torch.float32), random_model("llama", torch.float32)
    random = study(2, 1)
    editor = make_editor(one, engine, kind, "true", directions=study(2))
    plain = make_editor(other, engine, kind, "true")

    editor.abliterate(edits_of(one, random, 0))
    plain.abliterate(edits_of(other, random, 0))

    assert logits(one).equal(logits(other))
    assert 2 * (LAYERS + 1) not in rows_read


@pytest.mark.parametrize("kind", ALL)
def test_half_precision_is_rounded_once(kind: NormPreservation) -> None:
    model, directions = random_model("llama", torch.bfloat16), study(2)
    exact = copy.deepcopy(model)
    exact.network.double()
    WeightEditor(exact, LayerWeightsCache(exact.anatomy), kind).abliterate(
        edits_of(exact, directions, 1)
    )
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), kind, directions)

    editor.abliterate(edits_of(model, directions, 1))

    for found, wanted in zip(model.anatomy.writers, exact.anatomy.writers, strict=True):
        off = (found.weight.double() - wanted.weight).abs()
        # Half a unit in the last of eight binary places.
        assert (off <= 1.001 * 2**-8 * wanted.weight.abs() + 1e-7).all()
        assert (found.weight != wanted.weight.bfloat16()).double().mean() < 0.01


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("piece", [1, 70, 500, 10**6])
def test_pieces_of_any_size_write_the_same_bits(piece: int, transposed: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    stored = torch.randn(3, 20, 14, generator=draw).bfloat16()
    pristine = stored.mT if transposed else stored
    d_model, d_in = pristine.shape[1:]
    outer, inner = torch.randn(1, d_model), torch.randn(3, 1, d_in)
    whole, found = torch.empty_like(stored), torch.empty_like(stored)
    for size, target in ((10**9, whole), (piece, found)):
        there = target.mT if transposed else target
        write_difference(there, pristine, outer, inner, None, transposed, size)

    assert found.equal(whole)
    expected = pristine.double() - outer.double().T @ inner.double()
    edited = (whole.mT if transposed else whole).double()
    assert (edited - expected).abs().max() < 2**-8 * expected.abs().max()


@pytest.mark.parametrize("limit", [1, 5, 6, 11, 36, 37, 10**3])
def test_pieces_cover_all_once_and_no_more_than_the_limit(limit: int) -> None:
    seen = torch.zeros(4, 6, 5)
    for matrices, lines in pieces(4, 6, 5, limit):
        seen[matrices, lines] += 1
        assert seen[matrices, lines].numel() <= max(limit, 5)
    assert seen.eq(1).all()


class Cramped(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Memory for new tensors of at most so many numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.failures = numbers, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        given = {_memory(each) for each in tree_flatten((args, kwargs))[0] if _is_tensor(each)}
        for made in tree_flatten(found)[0]:
            if _is_tensor(made) and made.numel() > self.numbers and _memory(made) not in given:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return found


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def cramped(monkeypatch: pytest.MonkeyPatch, numbers: int) -> Iterator[Cramped]:
    monkeypatch.setattr(weight_writer, "SMALLEST_PIECE", 64)
    monkeypatch.setattr(
        weight_writer, "release_memory", lambda: None
    )  # takes long in so large a process
    with Cramped(numbers) as memory:
        yield memory


def expected_of(family: str, kind: NormPreservation, numbers: Sequence[int]) -> dict[str, Tensor]:
    model = random_model(family, torch.bfloat16)
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), kind)
    for number in numbers:
        editor.abliterate(edits_of(model, study(2), number))
    return state(model)


@pytest.mark.parametrize("with_products", [False, True])
@pytest.mark.parametrize(
    ("family", "kind", "numbers"),
    [
        *(("llama", kind, 300) for kind in ALL),
        ("gpt2", "column", 300),
        ("gpt2", "row", 300),
        ("gpt_oss", "frobenius", 400),
    ],
)
def test_out_of_memory_means_smaller_pieces(
    family: str,
    kind: NormPreservation,
    numbers: int,
    with_products: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Products with all of the study's rows do not fit either, which is told once."""
    model, directions = random_model(family, torch.bfloat16), study(2)
    original, cache = state(model), LayerWeightsCache(model.anatomy)
    editor = WeightEditor(model, cache, kind, directions if with_products else None)
    chosen = [edits_of(model, directions, number) for number in (0, 1)]

    with caplog.at_level(logging.WARNING, "heretic"), cramped(monkeypatch, numbers) as memory:
        editor.abliterate(chosen[0])
        failures = memory.failures
        editor.abliterate(chosen[1])

    assert memory.failures == failures > 0  # the second edit knows
    for name, tensor in expected_of(family, kind, [1]).items():
        off = (tensor - state(model)[name]).abs()
        assert (off <= 2**-7 * tensor.abs() + 1e-6).all(), name
    told = [message for message in caplog.messages if "caching direction products" in message]
    assert len(told) == with_products
    assert any("in chunks of" in message for message in caplog.messages)
    editor.restore()
    assert same(state(model), original)


def test_products_that_do_not_fit_are_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those made before, too; and outputs are edited without."""
    directions = study(2)
    one, other = random_model("llama", torch.float32), random_model("llama", torch.float32)
    editor = make_editor(one, "hooks", "row", "auto", directions=directions)
    plain = make_editor(other, "hooks", "row", "auto")
    tried: list[int] = []

    def fail_later(weight: Tensor, rows: Tensor, *others: Any) -> products.DirectionProducts:
        if len(rows) > 2:
            tried.append(len(rows))
            if len(tried) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(weight, rows, *others)

    measure = products.measure
    monkeypatch.setattr(products, "measure", fail_later)
    with caplog.at_level(logging.WARNING, "heretic"):
        for number in (0, 0):
            editor.abliterate(edits_of(one, directions, number))
    plain.abliterate(edits_of(other, directions, 0))

    assert logits(one).equal(logits(other))
    assert len(tried) == 3
    assert len(caplog.messages) == 1


def test_another_error_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = study(1)
    model = random_model("llama", torch.float32)
    editor = make_editor(model, "weights", "none", "true", directions=directions)

    def fail(*_: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(products, "measure", fail)
    with pytest.raises(ModelLoadError, match=r"o_proj: device lost.*reload it"):
        editor.abliterate(edits_of(model, directions, 0))


def test_where_no_piece_fits_what_takes_less_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, directions = random_model("llama", torch.float32), study(2)
    editor = WeightEditor(model, LayerWeightsCache(model.anatomy), "row")
    edits = edits_of(model, directions, 0)
    with (
        pytest.raises(ModelLoadError, match="reload it with edit_mode=hooks or cache_dev"),
        cramped(monkeypatch, 20),
    ):
        editor.abliterate(edits)
    assert model.damaged is not None


def test_a_difference_is_the_edit_of_a_matrix() -> None:
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(12, 9, generator=draw, dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(12, 2, generator=draw).double()).Q.T
    found = torch.empty_like(weight)
    outer = directions * torch.tensor([[0.8], [1.5]])

    write_difference(found, weight, outer, directions @ weight, None, False, 20)

    torch.testing.assert_close(found, ablate_matrix(weight, directions, [0.8, 1.5]))
