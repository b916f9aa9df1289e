"""Cache of the unedited layers' states for tokens of answers, reused by draft tokens.

A token's states below the first edited layer depend only on the prompt and the preceding tokens,
and trials repeatedly draft the same answers. The tokens of a prompt's answers are the nodes of a
tree, each with its own place in every kept layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from heretic.engine.activation_cache import last_kept, watching
from heretic.engine.decode_batch import DecodeBatch, RowKey
from heretic.engine.kv_cache import KeyValues, read_key_values
from heretic.engine.prefill import ResumePoint, starting
from heretic.model.loading import Model

FIRST_ROOM = 1024


class AnswerStates:
    """Token states, and the number of computed layers of each."""

    def __init__(self, model: Model, layers: Sequence[int], n_outputs: int, most: int) -> None:
        """Initialize without tokens.

        Args:
            model: model of the passes.
            layers: layers whose inputs are kept, in ascending order.
            n_outputs: length of a layer's output, as in `ResumePoint`.
            most: maximum number of kept tokens; beyond it, all are discarded.
        """
        self._model, self._layers = model, layers
        self._n_outputs, self._most = n_outputs, most
        self._children: dict[tuple[int, int], int] = {}
        self._depths: list[int] = []
        self._kept: dict[tuple[str, int], Tensor] = {}

    @contextmanager
    def passing(
        self, rows: DecodeBatch, guesses: Sequence[Sequence[int]], first_changed: int
    ) -> Iterator[None]:
        """Within the block, start passes over the rows' latest and draft tokens at a later layer.

        A pass starts at the last kept layer below which all of these tokens are known. The states
        that it computes for them up to the first edited layer are kept.

        Args:
            rows: rows without unread tokens.
            guesses: draft tokens after each row's latest token.
            first_changed: layer before which no row's trial edits anything.
        """
        reach = last_kept(self._layers, first_changed)
        if reach == 0:
            yield
            return
        places = [
            self._find(owner, answer, guess)
            for owner, answer, guess in zip(rows.owners, rows.answers, guesses, strict=True)
        ]
        if len(self._depths) > self._most:
            self._forget()
            yield
            return
        known = min(self._depths[place] for some in places for place in some)
        layer = last_kept(self._layers, min(known, reach))
        start = self._start(layer, places) if layer else None
        new = [kept for kept in self._layers if layer < kept <= reach]
        width = rows.mask.shape[1]
        seen: dict[int, Tensor] = {}
        with ExitStack() as stack:
            layers = self._model.get_layers()
            stack.enter_context(starting(layers, start))
            if new:
                stack.enter_context(watching(layers, new, seen, [0]))
            yield
        if start is not None:
            _add(rows, start.key_values)
        if new:
            self._keep(places, seen, read_key_values(rows.cache, width)[:reach])

    def _forget(self) -> None:
        self._children.clear()
        self._depths.clear()

    def _find(self, owner: RowKey, answer: Sequence[int], guess: Sequence[int]) -> list[int]:
        """Return the places of an answer's last token and the following guess, adding new ones."""
        path, place = [], -1 - owner.prompt
        for token in (*answer, *guess):
            place = self._children.setdefault((place, token), len(self._depths))
            if place == len(self._depths):
                self._depths.append(0)
            path.append(place)
        return path[len(answer) - 1 :]

    def _start(self, layer: int, places: Sequence[Sequence[int]]) -> ResumePoint:
        """Return the start of a pass at a layer, from the tokens' kept states."""
        width = max(map(len, places))
        # Columns beyond a guess are masked, so their contents do not matter.
        table = torch.tensor([[*some, *[some[-1]] * (width - len(some))] for some in places])

        def read(kind: str, at: int) -> Tensor:
            kept = self._kept[kind, at]
            found = kept.index_select(0, table.flatten().to(kept.device))
            return found.view(*table.shape, *kept.shape[1:])

        key_values: KeyValues = [
            (read("keys", below).transpose(1, 2), read("values", below).transpose(1, 2))
            if ("keys", below) in self._kept
            else None
            for below in range(layer)
        ]
        return ResumePoint(layer, read("inputs", layer), key_values, self._n_outputs)

    def _keep(
        self, places: Sequence[Sequence[int]], seen: dict[int, Tensor], key_values: KeyValues
    ) -> None:
        """Keep the states shown by a pass for tokens not known up to the last observed layer."""
        reach = len(key_values)
        new = {
            place: (row, column)
            for row, some in enumerate(places)
            for column, place in enumerate(some)
            if self._depths[place] < reach
        }
        if not new:  # as for a cache with fewer layers
            return
        at = torch.tensor(list(new))
        rows, columns = torch.tensor(list(new.values())).unbind(dim=1)

        def write(kind: str, layer: int, shown: Tensor) -> None:
            """Write the tokens' values `shown` [batch, tokens, ...] of a layer."""
            part = shown[rows.to(shown.device), columns.to(shown.device)]
            kept = self._room(kind, layer, part)
            kept[at.to(kept.device)] = part

        for layer, states in seen.items():
            write("inputs", layer, states)
        for layer in range(min(self._depths[place] for place in new), reach):
            both = key_values[layer]
            if both is not None:
                write("keys", layer, both[0].transpose(1, 2))
                write("values", layer, both[1].transpose(1, 2))
        for place in new:
            self._depths[place] = reach

    def _room(self, kind: str, layer: int, like: Tensor) -> Tensor:
        """Return the stored states of a layer [places, ...], enlarged to all current places."""
        kept = self._kept.get((kind, layer))
        room = 0 if kept is None else len(kept)
        if room < len(self._depths):
            larger = min(self._most, max(FIRST_ROOM, 2 * len(self._depths)))
            place = like.new_empty(larger, *like.shape[1:])
            if kept is not None:
                place[:room] = kept
            self._kept[kind, layer] = kept = place
        assert kept is not None
        return kept


def _add(rows: DecodeBatch, key_values: KeyValues) -> None:
    """Add the keys and values of the first layers, which a pass skipped."""
    caches: Sequence[Any] = rows.cache.layers
    for cache, part in zip(caches, key_values, strict=False):
        if part is not None:
            cache.update(*part)
