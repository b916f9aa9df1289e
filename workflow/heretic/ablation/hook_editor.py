"""Application of a trial's edits to the outputs of stream writers, leaving weights unchanged.

With y = W x + b, and W' as defined in `projection`, the edited writer outputs W' x + b'. In terms
of the plain edit P(y) = y - D^T diag(s) D y, for which b' = P(b), that is

    none:       P(y)
    column:     P(W (c * x) + b)
    row:        r * P(y) + (1 - r) * b'
    frobenius:  g P(y) + (1 - g) b'

so nothing is overwritten, kept or restored. The factors come from `products`, for which weights are
read once per study; without norms to restore, no trial reads any. Embeddings receive tokens instead
of x, so c of a token multiplies the output.

Since this is applied to each row of a batch, the rows may belong to several trials: a pass then
reads the weights once for all of them; see `output_edits`.

Experts whose matrices are one parameter have one output, their sum weighted by the router: the
plain edit of that sum is the sum of plain edits, biases included, but factors of a single expert's
norms can no longer be applied.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from heretic.ablation.directions import AblationDirections
from heretic.ablation.expert_outputs import INSTEAD, require_summed_outputs
from heretic.ablation.hook_edits import MixedEdit, OutputEdit, RowAssignment
from heretic.ablation.linalg import wide_dtype
from heretic.ablation.plan import Edit, require_few, staged
from heretic.ablation.products import ProductCache, restoring_factors
from heretic.ablation.projection import NormPreservation, ablate_bias
from heretic.errors import ModelLoadError
from heretic.model.loading import Model
from heretic.model.stream_writers.anatomy import Anatomy, StreamWriter
from heretic.model.stream_writers.components import EMBEDDINGS
from heretic.timing import StageTimer

# Decoding reads all weights for a token of each row; this many trials per batch share that cost
# well enough.
MAX_TRIALS = 8


class HookEditor:
    """Edits a model's computation but not its weights, which must remain unchanged.

    Several trials may be loaded, and the rows of a batch may belong to different trials. Hooks stay
    on the model permanently, and do nothing for writers that no trial edits, unless the editor has
    static shapes: then each hook performs the same arithmetic in every trial, on tensors that keep
    their memory, so that a compiled step need not be recompiled. The step has one shape when rows
    are assigned individually, as long as their number is constant, and another when all are
    assigned at once.

    Attributes:
        max_trials: maximum number of trials held at once; 1 if a writer does not receive all
            tokens in order, so that its rows cannot be attributed to trials.
    """

    name = "hooks"

    def __init__(
        self,
        model: Model,
        norm_preservation: NormPreservation,
        directions: AblationDirections | None = None,
        *,
        static_shapes: bool = False,
    ) -> None:
        """Attach hooks to the writers of a model in its original state.

        Args:
            model: model to edit.
            norm_preservation: which norms are restored.
            directions: directions of the study, whose products are computed once for all trials; an
                editor with static shapes reserves space for as many per layer, or for one without
                them.
            static_shapes: whether a compiled step must fit all trials.

        Raises:
            ModelLoadError: the output of a module of experts is not that of its matrices alone, or
                norms are to be restored in such a module, or of an offloaded matrix.
        """
        self.model, self.static_shapes = model, static_shapes
        self.norm_preservation: NormPreservation = norm_preservation
        packed = [writer for writer in model.anatomy.writers if writer.is_raw]
        if packed and norm_preservation != "none":
            raise ModelLoadError(
                f"norm_preservation={norm_preservation} applies to each expert separately, but the "
                f"experts of {packed[0].name} share one output; {INSTEAD} or norm_preservation=none"
            )
        _require_at_hand(model, norm_preservation)
        in_order = require_summed_outputs(model) and not _has_experts_apart(model.anatomy)
        self.max_trials = MAX_TRIALS if in_order else 1
        self._products = ProductCache(directions, norm_preservation)
        with_inputs = norm_preservation == "column"
        self._taps = {
            w.name: _TokenTap(w.module)
            if w.component == EMBEDDINGS
            else _WriterHook(w.module, with_inputs)
            for w in model.anatomy.writers
        }
        if model.compile:
            # Previously compiled code does not notice new hooks.
            torch.compiler.reset()
        self._loaded: list[dict[str, OutputEdit]] = [{}]
        self._owners: dict[torch.device, RowAssignment] = {}
        self._mixed: dict[str, MixedEdit] = {}
        if static_shapes:
            self._count = 1 if directions is None else directions.rows.shape[1]
            self._make_room(self.max_trials, self._count, list(self._taps))
            self.assign(0)

    def load(self, trials: Sequence[Sequence[Edit]], clock: StageTimer | None = None) -> None:
        """Put the model into a state in which it computes these trials; all rows are the first's.

        Args:
            trials: edits of each trial, at most `max_trials`; none, or no edits, is the original.
            clock: records all of this as the stage `edit`.

        Raises:
            ModelLoadError: there are too many trials, or directions do not fit a writer, and
                nothing was changed.
        """
        require_few(trials, self.max_trials)
        # These tensors are later written in place, perhaps in another mode.
        with staged(clock, "edit"), torch.inference_mode(False), torch.no_grad():
            loaded = [
                {e.writer.name: self._output_edit(e) for e in edits if any(e.strengths)}
                for edits in trials
            ] or [{}]
            count = max((len(e.units) for trial in loaded for e in trial.values()), default=1)
            if not self.static_shapes:
                names = {name for trial in loaded for name in trial} if len(loaded) > 1 else ()
                self._make_room(len(loaded), count, names)
            elif count > self._count:
                raise ModelLoadError(
                    f"an edit has {count} directions, but this editor was created for "
                    f"{self._count}; use the directions of the study"
                )
            self._loaded = loaded
            for name, mixed in self._mixed.items():
                for number in range(mixed.trials):
                    mixed.put(number, loaded[number].get(name) if number < len(loaded) else None)
            self.assign(0)

    def assign(self, rows: int | Tensor) -> None:
        """Assign the rows of the next passes to the loaded trials.

        Args:
            rows: the trial of all rows, or that of each row of the batch, int64 [batch].

        Raises:
            ModelLoadError: the trial is not loaded.
        """
        if not isinstance(rows, Tensor) and not 0 <= rows < len(self._loaded):
            raise ModelLoadError(
                f"trial {rows} is not among the {len(self._loaded)} loaded trials; load it"
            )
        if self.static_shapes or (isinstance(rows, Tensor) and len(self._loaded) > 1):
            for owners in self._owners.values():
                owners.assign(rows)
            for name, tap in self._taps.items():
                tap.edit = self._mixed.get(name)
        else:
            trial = self._loaded[0 if isinstance(rows, Tensor) else rows]
            for name, tap in self._taps.items():
                tap.edit = trial.get(name)

    def abliterate(self, edits: Sequence[Edit]) -> None:
        """Put the model into the state of these edits, as `load` does.

        Raises:
            ModelLoadError: as `load`.
        """
        self.load([edits])

    def restore(self) -> None:
        """Restore the original model, bit for bit."""
        self.abliterate([])

    def _make_room(self, trials: int, count: int, names: Collection[str]) -> None:
        """Reserve space in these writers for trials of `count` directions each."""
        wide = wide_dtype(self.model.loaded_dtype)
        writers = [writer for writer in self.model.anatomy.writers if writer.name in names]
        self._owners = {
            device: RowAssignment(trials, count, device, wide)
            for device in {writer.device for writer in writers}
        }
        self._mixed = {
            writer.name: MixedEdit(
                writer.name, self._owners[writer.device], trials, self._neutral(writer, count)
            )
            for writer in writers
        }

    def _neutral(self, writer: StreamWriter, count: int) -> OutputEdit:
        """Return an edit that changes nothing, with the parts that edits of this writer have."""
        wide, width = wide_dtype(self.model.loaded_dtype), self.model.anatomy.d_model
        units = torch.zeros(count, width, dtype=wide, device=writer.device)
        if self.norm_preservation == "none":
            return OutputEdit(units, units)
        if self.norm_preservation == "column":
            return OutputEdit(units, units, input_scale=units.new_ones(writer.shape[-1]))
        scale = units.new_ones(width if self.norm_preservation == "row" else 1)
        shift = None if writer.bias is None else units.new_zeros(width)
        return OutputEdit(units, units, output_scale=scale, shift=shift)

    def _output_edit(self, edit: Edit) -> OutputEdit:
        writer, width = edit.writer, self.model.anatomy.d_model
        if edit.directions.shape[-1] != width:
            raise ModelLoadError(
                f"{writer.name} writes {width} channels, but its directions have "
                f"{edit.directions.shape[-1]}; do they belong to this model?"
            )
        wide = wide_dtype(self.model.loaded_dtype)
        units = edit.directions.to(writer.device, wide)
        scaled = units * units.new_tensor(edit.strengths)[:, None]
        if self.norm_preservation == "none":
            return OutputEdit(units, scaled)
        weight = partial(writer.numbers, self.model.loaded_dtype)
        products = self._products.of(edit, weight)
        factors = restoring_factors(products, edit.strengths, self.norm_preservation, weight)
        if self.norm_preservation == "column":
            return OutputEdit(units, scaled, input_scale=factors)
        shift = None
        if writer.bias is not None:
            bias = ablate_bias(writer.bias.to(wide), edit.directions, edit.strengths)
            shift = (1 - factors) * bias
        return OutputEdit(units, scaled, output_scale=factors, shift=shift)


def _require_at_hand(model: Model, norm_preservation: NormPreservation) -> None:
    if norm_preservation == "none":
        return
    away = next((w for w in model.anatomy.writers if w.offloaded), None)
    if away is not None:
        raise ModelLoadError(
            f"norm_preservation={norm_preservation} needs the weights of {away.name}, which are "
            "offloaded; set norm_preservation=none, or raise max_memory"
        )


def _has_experts_apart(anatomy: Anatomy) -> bool:
    """Return whether map names of a layer differ by a number: each expert sees some tokens."""
    alike = Counter(
        (writer.layer, re.sub(r"\d+", "#", writer.name))
        for writer in anatomy.writers
        if not writer.is_raw
    )
    return max(alike.values(), default=0) > 1


class _WriterHook:
    """Hooks of one module, which apply the current edit, if there is one."""

    def __init__(self, module: nn.Module, with_inputs: bool) -> None:
        self.edit: OutputEdit | MixedEdit | None = None
        module.register_forward_hook(self._change_output)
        if with_inputs:
            module.register_forward_pre_hook(self._change_input)

    def _change_input(self, _: nn.Module, args: Any) -> Any:
        return None if self.edit is None else (self.edit.of_input(args[0]), *args[1:])

    def _change_output(self, _: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if self.edit is None else self.edit.of_output(output)


class _TokenTap(_WriterHook):
    """Hooks of the embeddings, whose inputs are tokens."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, with_inputs=False)

    def _change_output(self, _: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if self.edit is None else self.edit.of_tokens(args[0], output)
