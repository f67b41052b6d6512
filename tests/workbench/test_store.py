from typing import Any

import pytest
import torch

from operators.grid import Grid, TimeAxis
from operators.space import Space
from workbench.kinds import Kind
from workbench.store import Header, Progress, Store, TensorStore, slab_shape, slabs

GRID = Grid.from_spacing((3, 4, 5), (5.0, 2.0, 1.0))


def header(count: int = 6, **changes: Any) -> Header:
    arguments: dict[str, Any] = {
        "space": Space.field(GRID),
        "dtype": torch.float32,
        "kind": Kind.EXACT_SAMPLE,
        "unit": "1/mm",
        "frame": "mni",
        "fingerprint": "a1",
        **changes,
    }
    return Header(count=count, **arguments)


def draws_of(head: Header) -> torch.Tensor:
    """Return what the run of this header draws: draw k is the same, whatever the count."""
    shape = (20, *head.space.shape)
    generator = torch.Generator().manual_seed(5)
    if head.space.classes is not None:
        return torch.randint(0, head.space.classes, shape, generator=generator)[: head.count]
    return torch.randn(shape, dtype=head.dtype, generator=generator)[: head.count]


class StoreContract:
    """What every store keeps to. `make` returns a new one, `again` one of the same place."""

    def make(self) -> Store:
        raise NotImplementedError

    def again(self, store: Store) -> Store:
        return store

    @pytest.fixture
    def store(self) -> Store:
        return self.make()

    @pytest.mark.parametrize(
        ("space", "dtype"),
        [
            (Space.field(GRID), torch.float32),
            (Space.field(GRID.with_time(TimeAxis(2, 0.5))), torch.float64),
            (Space.field(GRID, is_complex=True), torch.complex64),
            (Space.field(GRID, is_complex=True), torch.complex128),
            (Space.vectors(GRID), torch.float32),
            (Space.tokens(GRID, 3), torch.int64),
            (Space((7,)), torch.float64),
        ],
    )
    def test_draws_come_back_bit_by_bit(self, store: Store, space: Space, dtype: torch.dtype) -> None:
        head = header(space=space, dtype=dtype)
        x = draws_of(head)
        assert store.begin(head) is None
        store.write(0, x[:1])
        store.write(1, x[1:4])
        assert store.draws().shape == (4, *space.shape)
        store.write(4, x[4:])
        store.finish(torch.arange(6), {"seed": 3})
        draws = store.draws()
        assert (draws.shape, draws.dtype) == ((6, *space.shape), dtype)
        assert torch.equal(draws.read(slice(None)), x)
        assert torch.equal(draws.read(slice(1, 6, 2), (slice(1, 3),)), x[1:6:2, 1:3])
        if len(space.shape) > 1:
            region = (slice(0, 2), slice(2, 4))
            assert torch.equal(draws.read(slice(-2, None), region), x[-2:, 0:2, 2:4])

    def test_what_is_read_is_the_callers_own(self, store: Store) -> None:
        x = draws_of(header())
        store.begin(header())
        store.write(0, x)
        store.draws().read(slice(0, 2)).zero_()
        x_again = store.draws().read(slice(None))
        assert torch.equal(x_again, draws_of(header()))
        x.zero_()
        assert torch.equal(store.draws().read(slice(None)), x_again)

    def test_draws_end_before_the_first_that_is_missing(self, store: Store) -> None:
        x = draws_of(header())
        store.begin(header())
        assert store.draws().shape[0] == 0
        store.write(3, x[3:])
        assert store.draws().shape[0] == 0
        store.write(0, x[:2])
        assert torch.equal(store.draws().read(slice(None)), x[:2])
        store.write(2, x[2:3])
        assert torch.equal(store.draws().read(slice(None)), x)

    def test_a_run_goes_on_from_its_progress(self, store: Store) -> None:
        x = draws_of(header())
        store.begin(header())
        store.write(0, x[:2])
        state = torch.arange(12.0).reshape(3, 4)
        tensors = {"u": state.t()[1:], "z": torch.tensor(1j), "k": torch.tensor([True])}
        store.save(Progress({"first": 1, "note": None}, {}))
        store.save(Progress({"first": 2, "nested": {"a": [1, 2.5, "b"]}}, tensors))
        state.zero_()
        store.write(2, x[2:3])  # not vouched for by any progress

        again = self.again(store)
        progress = again.begin(header())
        assert progress is not None
        assert progress.facts == {"first": 2, "nested": {"a": [1, 2.5, "b"]}}
        assert torch.equal(progress.tensors["u"], torch.arange(12.0).reshape(3, 4).t()[1:])
        assert progress.tensors["z"].item() == 1j
        assert progress.tensors["k"].tolist() == [True]
        again.write(2, x[2:])
        again.finish(None, {})
        assert torch.equal(again.draws().read(slice(None)), x)

    def test_what_is_saved_is_the_stores_own(self, store: Store) -> None:
        u, facts = torch.ones(2, 3), {"steps": [1]}
        store.begin(header())
        store.save(Progress(facts, {"u": u, "row": u[0], "c": torch.ones(1) * 1j}))
        u.fill_(7.0)
        facts["steps"].append(2)
        first = self.again(store).begin(header())
        assert first is not None
        assert first.facts == {"steps": [1]}
        assert torch.equal(first.tensors["u"], torch.ones(2, 3))
        assert torch.equal(first.tensors["row"], torch.ones(3))

        for tensor in first.tensors.values():
            tensor.zero_()
        second = self.again(store).begin(header())
        assert second is not None
        assert torch.equal(second.tensors["u"], torch.ones(2, 3))
        assert second.tensors["c"].tolist() == [1j]

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ("prior=11 solver=aa seed=bb", "another: solver and seed differ"),
            ("prior=11 solver=22 seed=bb", "another: seed differs"),
            ("prior=aa solver=bb seed=cc", "another: prior, solver and seed differ"),
            ("seed=33 solver=aa prior=11", "another: solver differs"),
            ("prior=11 solver=22", "another: seed differs"),
            ("prior=11 solver=22 seed=33 plan=44", "another: plan differs"),
        ],
    )
    def test_the_parts_that_differ_are_named_and_no_hash(
        self, store: Store, asked: str, message: str
    ) -> None:
        store.begin(header(fingerprint="prior=11 solver=22 seed=33"))
        store.write(0, draws_of(header()))
        store.save(Progress({}, {}))
        with pytest.raises(
            ValueError, match=f"^`header` must be that of the run in .*, got {message}\\. "
        ) as it:
            self.again(store).begin(header(fingerprint=asked))
        assert "=" not in str(it.value)
        for part in asked.split():
            assert part.split("=")[1] not in str(it.value)[str(it.value).index("got") :]

    def test_other_fingerprints_are_shown(self, store: Store) -> None:
        store.begin(header(fingerprint="prior=11 seed=33"))
        store.write(0, draws_of(header()))
        store.save(Progress({}, {}))
        with pytest.raises(ValueError, match="fingerprint is 'prior=11 seed=33', got '3fa9'. Something that"):
            self.again(store).begin(header(fingerprint="3fa9"))

    def test_without_progress_it_begins_anew(self, store: Store) -> None:
        store.begin(header())
        store.write(0, draws_of(header()))
        again = self.again(store)
        assert again.begin(header()) is None
        assert again.draws().shape[0] == 0

    def test_a_larger_count_makes_room(self, store: Store) -> None:
        x = draws_of(header(9))
        store.begin(header(4))
        store.write(0, x[:4])
        store.save(Progress({"first": 4}, {}))
        store.finish(torch.zeros(4), {"draws": 4})

        again = self.again(store)
        progress = again.begin(header(9))
        assert progress is not None
        assert progress.facts == {"first": 4}
        assert again.draws().shape[0] == 4
        again.write(4, x[4:])
        again.save(Progress({"first": 9}, {}))
        again.finish(None, {"draws": 9})
        assert torch.equal(again.draws().read(slice(None)), x)

    def test_a_smaller_count_is_a_look_at_the_first(self, store: Store) -> None:
        x = draws_of(header())
        store.begin(header())
        store.write(0, x)
        store.save(Progress({"first": 6}, {}))
        store.finish(None, {"draws": 6})

        again = self.again(store)
        progress = again.begin(header(2))
        assert progress is not None
        assert progress.facts == {"first": 6}
        again.finish(None, {"draws": 2})
        assert torch.equal(again.draws().read(slice(None)), x[:2])
        last = self.again(again)
        last.begin(header())
        assert torch.equal(last.draws().read(slice(None)), x)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fingerprint": "b2"}, "`header` must be that of the run in .*'a1', got 'b2'. .*(ano|Ano)ther"),
            ({"fingerprint": ""}, "`header.fingerprint` must be given to go on with what is in"),
            ({"unit": "HU"}, "`header` must be that of the run in"),
            ({"dtype": torch.float64}, "`header` must be that of the run in"),
        ],
    )
    def test_another_run_is_refused(self, store: Store, change: dict[str, Any], message: str) -> None:
        store.begin(header())
        store.write(0, draws_of(header()))
        store.save(Progress({}, {}))
        again = self.again(store)
        with pytest.raises(ValueError, match=message):
            again.begin(header(**change))
        last = self.again(again)
        last.begin(header())
        assert torch.equal(last.draws().read(slice(None)), draws_of(header()))

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (
                lambda s: s.write(0, torch.zeros(2, 3, 4, 5).double()),
                "`draws` must have the run's dtype torch.f",
            ),
            (lambda s: s.write(0, torch.zeros(3, 4, 5)), r"`draws` must have shape \(n, 3, 4, 5\)"),
            (lambda s: s.write(0, [1.0]), "`draws` must be a torch.Tensor, got list"),
            (lambda s: s.write(5, torch.zeros(2, 3, 4, 5)), r"`first` must put .* 6 of the run, got 5\.\.7"),
            (lambda s: s.write(-1, torch.zeros(2, 3, 4, 5)), "`first` must put the draws within"),
            (lambda s: s.save(Progress({"a": torch.zeros(1)}, {})), "`facts` must be JSON-able"),
            (lambda s: s.save(Progress({"a": [{1: 2}]}, {})), r"`facts\['a'\]\[0\]` must have text as keys"),
            (lambda s: s.finish(None, {}), "0 of 6 draws are written: a run is finished after its last"),
        ],
    )
    def test_what_does_not_belong_to_the_run(self, store: Store, act: Any, message: str) -> None:
        store.begin(header())
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            act(store)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.zeros(5), {}), r"`log_weights` must be a tensor of shape \(6,\), got \(5,\)"),
            (([0.0], {}), r"`log_weights` must be a tensor of shape \(6,\), got list"),
            ((None, {"a": {1}}), "`record` must be JSON-able"),
            ((None, {"a": {1: 2}}), r"`record\['a'\]` must have text as keys, got 1 \(int\)"),
        ],
    )
    def test_a_finish_that_is_refused_changes_nothing(
        self, store: Store, arguments: Any, message: str
    ) -> None:
        store.begin(header())
        store.write(0, draws_of(header()))
        with pytest.raises((TypeError, ValueError), match=message):
            store.finish(*arguments)
        store.finish(None, {})

    def test_nothing_is_kept_before_it_began(self, store: Store) -> None:
        for act in (
            store.draws,
            lambda: store.write(0, torch.zeros(1)),
            lambda: store.save(Progress({}, {})),
            lambda: store.finish(None, {}),
        ):
            with pytest.raises(RuntimeError, match=r"Call begin\(header\) first"):
                act()


class TestTensorStore(StoreContract):
    def make(self) -> TensorStore:
        return TensorStore()

    def test_it_keeps_weights_and_record(self) -> None:
        store = self.make()
        store.begin(header())
        store.write(0, draws_of(header()))
        store.finish(torch.arange(6), {"seed": (1, 2)})
        assert store.log_weights is not None
        assert (store.log_weights.dtype, store.log_weights.tolist()) == (torch.float64, list(range(6)))
        assert store.record == {"seed": [1, 2]}
        assert store.room() is None


@pytest.mark.parametrize("shape", [(5,), (3, 4, 5), (1, 7, 1, 3), (2, 1)])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 20, 59, 60, 61, 1000])
def test_slabs_tile_the_whole(shape: tuple[int, ...], most: int) -> None:
    seen = torch.zeros(shape, dtype=torch.int64)
    order = torch.arange(seen.numel()).reshape(shape)
    last = -1
    for region in slabs(shape, most):
        seen[region] += 1
        assert seen[region].numel() <= most
        assert int(order[region].min()) == last + 1
        last = int(order[region].max())
        assert order[region].numel() == last - int(order[region].min()) + 1  # in one piece in memory
    assert bool((seen == 1).all())
    box = slab_shape(shape, most)
    assert torch.tensor(box).prod() <= max(1, most)
