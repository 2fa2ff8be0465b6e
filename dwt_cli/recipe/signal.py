"""The stage of a cached signal: the teacher is asked once, for what the student will hear.

What is cached belongs to a teacher, a text and an estimator, and grows: a run adds the blocks that
none before it has asked for, and one that finds all of its own loads no teacher.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.signal.options import Cached
from dwt_cli.recipe.imported import check_decoded, check_rows, check_tokenizer
from dwt_cli.recipe.order import num_tokens, text_for
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.teacher import Prepared, TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.protocols import Moment

if TYPE_CHECKING:
    from torch import Tensor

    from dwt_cli.distill.signal.coding import Layout
    from dwt_cli.distill.signal.imported import ImportedSignal
    from dwt_cli.distill.signal.store import CachedBlock, Store
    from dwt_cli.recipe.student import StudentStage
    from dwt_cli.tasks.batches import TrainBatches
    from dwt_cli.tasks.task import Place

BLOCKS_PER_SHARD = 256
_CENTROID_ROWS, _CENTROID_ENTRIES = 2048, 1 << 26  # rows that centroids are the means of, at most

_Asked = Sequence[tuple[int, "Place"]]  # blocks by their keys, and a place of each


@dataclass(frozen=True)
class SignalStage(Stage):
    """A teacher's rows in the cache; its artifact is a `Prepared` one that gives them back."""

    kind, word, grows = "signal", "signal", True
    options: Cached
    student: StudentStage
    teacher: TeacherStage
    name: str = "signal"

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that determine rows, but for each one's key (see `_way`, `Store`)."""
        from dwt_cli.distill.signal.store import VERSION

        student, of = self.student, self.student.shapes.conditions
        return {
            "version": VERSION,
            "text": student.corpus.identity,
            "task": of.task,
            "teacher": self.teacher.options,
            "teachers": self.teacher.identities,
            "vocab_size": of.data.vocab_size,
            "temperature": self.temperature,
            "options": self.options,
        }

    @property
    def temperature(self) -> float:
        """The objectives' one temperature."""
        return next(iter(divergences(self.student.shapes.objectives).values())).temperature

    @property
    def layout(self) -> Layout:
        from dwt_cli.distill.signal.cached import layout_of

        return layout_of(self.options, self.student.shapes.conditions.data.vocab_size)

    def distilled_steps(self, done: Mapping[str, Any]) -> list[int] | None:
        """Return the steps in which the teacher will count, as far as it is known beforehand.

        A schedule that reacts may listen to the end. None: the length is not known.
        """
        if (steps := self.student.num_steps(done)) is None:
            return None
        alpha = self.student.schedule(done)
        soft = (alpha.reacts or alpha.weights(Moment(n / steps)).soft for n in range(steps))
        return [step for step, weight in enumerate(soft) if weight]

    def num_blocks(self, done: Mapping[str, Any]) -> int | None:
        """Return how many blocks are asked for at most; None while that is not known."""
        steps, each = self.distilled_steps(done), self.student.shapes.conditions.task.num_variants
        if steps is None:
            return None
        blocks = len(steps) * self.student.shapes.conditions.train.batch_size
        there, chosen = self._blocks_of_text(done), self.student.order.chosen
        if there and chosen:
            there = chosen.num_chosen(there)
        return blocks if there is None or each is None else min(blocks, each * there)

    def num_centroid_blocks(self, done: Mapping[str, Any]) -> int:
        """Return how many blocks the teacher reads for the centroids, if there are any."""
        of, there = self.student.shapes.conditions, self._blocks_of_text(done)
        num_rows = min(_CENTROID_ROWS, _CENTROID_ENTRIES // of.data.vocab_size)
        most = math.ceil(num_rows / of.num_targets) if self.options.num_shared else 0
        return most if there is None else min(most, there)

    def _blocks_of_text(self, done: Mapping[str, Any]) -> int | None:
        tokens = num_tokens(self.student, done)
        return tokens and tokens // self.student.shapes.conditions.data.block_length

    @property
    def most_bytes(self) -> float:
        """The bytes of a block's rows at most."""
        return self.layout.most_bits / 8 * self.student.shapes.conditions.num_targets

    @property
    def block_flops(self) -> float:
        """FLOPs of a teacher's answer to one block."""
        _, asked = self.student.shapes.taught_flops()
        return asked / self.student.shapes.conditions.train.batch_size

    def is_kept(self, cache: Cache) -> bool:
        """Return False: it grows, and the blocks of a run are found when they are drawn."""
        return False

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of asking for all of it."""
        blocks = self.num_blocks(done)
        return None if blocks is None else self._flops(blocks, done)

    def cost_beyond(self, asked: dict[str, dict[int, int]]) -> float | None:
        """Return the FLOPs of what runs of other seeds, and shorter ones, have not asked for.

        A seed has an order of its own: what it reads of the text is taken to be other blocks, while
        there are others.
        """
        before, whole = asked.setdefault(self.identity, {}), self.num_blocks({})
        if whole is None:
            return None
        of, there = self.student.shapes.conditions.task, self._blocks_of_text({})
        most = math.inf if there is None or of.num_variants is None else of.num_variants * there

        def known() -> float:
            return self._flops(int(min(most, sum(before.values()))), {})

        earlier, seed = known(), self.student.seed
        before[seed] = max(whole, before.get(seed, 0))
        return known() - earlier

    def _flops(self, blocks: int, done: Mapping[str, Any]) -> float:
        return (blocks + self.num_centroid_blocks(done) if blocks else 0) * self.block_flops

    def carry_out(self, done: Done, at: Context) -> Prepared:
        """Return the teacher as it is cached, asked for what is missing; all ranks ask."""
        from dwt_cli.distill.signal.cached import CachedSignal
        from dwt_cli.tasks.batches import TrainBatches

        of, corpus = self.student.shapes.conditions, text_for(self.student, done)
        if imported := self.options.imported:
            check_tokenizer(imported, self.student.corpus, at)
        drawn = (of.train.batch_size, self.student.seed, self.student.purpose)
        batches = TrainBatches(corpus.train, of.task.targets(corpus.tokenizer), *drawn)
        about = {"options": plain(self.options)}
        as_evaluated = fingerprint("facts", eval=of.eval, way=self._way(at))
        told = f"facts-{as_evaluated}.json"  # of the teacher
        needed = self._needed(batches, done, at)  # whoever waits for the cache waits for no drawing
        with ExitStack() as held:

            def hold() -> str:
                growing = at.cache.growing(str(self.kind), self.identity, about)
                return str(held.enter_context(growing))

            place = Path(at.ranks.from_first("the signal's turn", hold))
            if not place.is_dir():
                raise UserError(
                    f"rank {at.ranks.rank} does not see {place}: set run.cache to a folder that "
                    "all nodes share"
                )
            store = self._open(place, at)
            missing = [(key, where) for key, where in needed.items() if key not in store]
            facts = at.ranks.from_first("its facts", lambda: atomic.read_json(place / told))
            if missing or facts is None:
                found = self._ask(missing, batches, place, done, at).to_json()
                if at.ranks.is_first and facts is None:
                    atomic.write_json(place / told, found)
                    atomic.add(place, [told])
                facts, store = facts or found, self._open(place, at)
            # before another run adds to it
            centroids = self._centroids(place, at)
            size = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
        per_row, asked = size / max(1, store.num_rows), len(missing)
        line = f"{len(needed):,} blocks, {asked:,} asked for now, {per_row:.1f} bytes a target"
        at.show.update(self.name, 1.0, line)
        account: dict[str, Any] = {
            "identity": self.identity,
            "blocks": len(needed),
            "flops": None if imported else self._flops(len(needed), done),
            "bytes_per_target": per_row,
        }
        if self.options.is_biased:
            account["biased"] = True
        way, vocab_size = self._way(at), of.data.vocab_size
        of_batch = lambda batch: store.entries(batch, way)  # noqa: E731
        signal = CachedSignal(vocab_size, of_batch, account, centroids)
        return Prepared(Facts.from_json(facts), signal)

    def _way(self, at: Context) -> str:
        """Return the number type and the kinds of attention of the teacher's forward pass."""
        models = self.student.shapes.teacher_models.values()
        kinds = ["sdpa" if model._supports_sdpa else "eager" for model in models]
        return " ".join([str(at.machine.dtype), *kinds])

    def _open(self, place: Path, at: Context) -> Store:
        """Return the shards that the manifest names, the same ones on every rank."""
        from dwt_cli.distill.signal.store import Store

        def listed() -> list[int]:
            names = atomic.read_json(place / atomic.MANIFEST) or {}
            return sorted(int(name[:6]) for name in names if name.endswith(".rows"))

        numbers = at.ranks.from_first("its shards", listed)
        return Store(place, self.layout, numbers)

    def _needed(self, batches: TrainBatches, done: Done, at: Context) -> dict[int, Place]:
        """Return the blocks that are asked for, by their keys, and the first place of each."""
        from dwt_cli.distill.signal.store import keys_of
        from dwt_cli.tasks.task import Place

        needed: dict[int, Place] = {}
        for step in self.distilled_steps(done) or ():
            batch = batches.batch(step)
            for key, place in zip(keys_of(batch, self._way(at)), batch.places_B3, strict=True):
                if key not in needed:
                    needed[key] = Place(*place.tolist())
        return needed

    def _centroids_file(self, at: Context) -> str:
        return f"centroids-{fingerprint('way', way=self._way(at))}.npy"

    def _centroids(self, place: Path, at: Context) -> Tensor | None:
        """Return the centroids that are cached; None: none are."""
        import numpy as np

        from dwt_cli.distill.signal.cached import as_distributions

        name = self._centroids_file(at)
        is_there = name in (atomic.read_json(place / atomic.MANIFEST) or {})
        return as_distributions(np.load(place / name)) if is_there else None

    def _write_centroids(self, teacher: Prepared, place: Path, done: Done, at: Context) -> None:
        """Write the centroids down, of blocks that are spread over the text, whoever asks."""
        import numpy as np

        from dwt_cli.distill.signal.cached import centroids_of, spread_over

        of, corpus = self.student.shapes.conditions, done[self.student.corpus.name]
        targets, size = of.task.targets(corpus.tokenizer), of.train.num_blocks(at.ranks.size)
        count = min(self.num_centroid_blocks(done), len(corpus.train))
        spread = spread_over(corpus.train, targets, count, size)
        batches = (batch.to(at.machine.device) for batch in spread)
        found = centroids_of(teacher.signal, batches, self.options, self.temperature)
        np.save(place / self._centroids_file(at), found)
        atomic.add(place, [self._centroids_file(at)])

    def _ask(
        self, missing: _Asked, batches: TrainBatches, place: Path, done: Done, at: Context
    ) -> Facts:
        """Ask for what is missing, a shard on each rank at a time; return the teacher's facts."""
        from dwt_cli.distill.signal.store import write_shard

        for stage in (*self.teacher.members, self.teacher):
            if stage.name not in done:
                done[stage.name] = stage.carry_out(done, at)
        teacher: Prepared = done[self.teacher.name]
        if imported := self.options.imported:
            asked = (batches.of([where]) for _, where in missing)
            signal: ImportedSignal = teacher.signal  # type: ignore[assignment]
            corpus = done[self.student.corpus.name]
            check_decoded(signal.decoded, corpus.tokenizer, imported.path)
            check_rows(signal, asked, imported.path)
        if self.options.num_shared:

            def write() -> None:
                if self._centroids(place, at) is None:
                    self._write_centroids(teacher, place, done, at)

            at.ranks.from_first("its centroids", write)
        centroids = self._centroids(place, at)
        assert centroids is not None or not self.options.num_shared, "rank 0 has written them"
        ranks, shards = at.ranks, range(0, len(missing), BLOCKS_PER_SHARD)
        # those that an interrupted start has not named stay below
        known = (int(path.stem) for path in place.glob("[0-9]*.*"))
        first = ranks.from_first("the next shard", lambda: max(known, default=-1) + 1)
        for start in range(0, len(shards), ranks.size):
            ours = start + ranks.rank
            if ours < len(shards):
                part = missing[shards[ours] : shards[ours] + BLOCKS_PER_SHARD]
                write_shard(
                    place, first + ours, list(self._blocks(part, teacher, batches, centroids, at))
                )
            ranks.largest(0.0)  # all have written theirs
            written = range(start, min(start + ranks.size, len(shards)))
            if ranks.is_first:
                names = [f"{first + n:06d}.{end}" for n in written for end in ("npy", "rows")]
                atomic.add(place, names)
            at.show.update(self.name, written[-1] / len(shards), "asking the teacher")
        ranks.largest(0.0)  # what rank 0 has named is there for all
        return teacher.facts

    def _blocks(
        self,
        part: _Asked,
        teacher: Prepared,
        batches: TrainBatches,
        centroids: Tensor | None,
        at: Context,
    ) -> Iterator[CachedBlock]:
        from dwt_cli.distill.signal.cached import asked

        size = self.student.shapes.conditions.train.num_blocks(at.ranks.size)
        for start in range(0, len(part), size):
            keys, places = zip(*part[start : start + size], strict=True)
            batch = batches.of(places).to(at.machine.device)
            kept_as = (self.options, self.layout, self.temperature, centroids)
            yield from asked(teacher.signal, batch, list(keys), *kept_as)
