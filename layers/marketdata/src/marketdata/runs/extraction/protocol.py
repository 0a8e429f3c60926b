"""How batches get written, whoever else extracts the same input at the same moment.

Lambda may make a call twice, or go on with one that was given up; the state machine retries one
that died. So several calls may extract one input of a run at once, and cut the same page, or the
same bytes, into different batches. The invariant:

    *Of several calls at the same place of an input exactly one counts, and its run loads nothing
    that another one wrote.*

One write goes through these steps, in this order:

1. **Heartbeat.** A call that outlived its run, or its lease of the input, stops here.
2. **Take numbers.** One atomic update gives a fencing token that only grows, if the run's state of
   the input still says what this call knows of it. If it does not, another call is further.
3. **Write the batches** as pending, each with the token. A batch of a later token stays.
4. **Drop** what earlier tokens have written beyond: a call that died had cut the same into more.
5. **Store the progress**, if this token is still the last one. Then, and only then, the batches
   count: the numbers that are handed to the state machine lie below the stored progress.
6. Else drop what this token wrote.

Why it holds: progress is stored by one update that names the last token, and after it nobody can
take numbers at the same place (2 asks for the place). So for each place one token stores its
progress. Its batches have all its numbers, as 3 replaces what earlier tokens wrote, and later
tokens can't have written there without being the last one in 5. What lies beyond the progress is
dropped by 4, by 6 or at the end of the extraction, and is not loaded by this run.

A call may write after the extraction has ended, and die before 6. What it wrote lies beyond the
final progress. It is dropped when the run closes, or, if it comes later still, when the next run
looks for what was left (`store.batches.reclaiming`). So no run counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Unpack

from marketdata.documents.batches import NewBatch
from marketdata.documents.errors import StoredError
from marketdata.documents.runs import InputChanges, InputState, InputStatus
from marketdata.runs.heartbeat import require_running
from marketdata.store import run_inputs
from marketdata.store.batches import queue
from marketdata.store.connection import Filter, Store


class Overtaken(Exception):
    """Another call of the same run is further with this input, or has ended its extraction."""


@dataclass(frozen=True, slots=True)
class Written:
    """What one write is to bring about."""

    batches: Sequence[NewBatch]
    """Each with its number."""
    next_number: int
    """The number after theirs."""
    changes: InputChanges
    """The progress of the input once they count, as it is stored."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The protocol for one input of one run; see the head of this module."""

    store: Store
    run_id: str
    input_id: str

    def write(self, known: Filter, cut: Callable[[InputState], Written]) -> bool:
        """Write batches, and store the progress that makes them count.

        Args:
            known: what this call knows of the place that the input is at; see
                `run_inputs.take_numbers`.
            cut: makes the batches, of the input as it is when their numbers are taken.

        Returns:
            False if another call has taken numbers since: nothing of this one counts.

        Raises:
            Overtaken: another call is further.
            StateConflict: the run has ended, or has lost the input to another one.
        """
        store, run_id, input_id = self.store, self.run_id, self.input_id
        require_running(store, run_id, input_id)
        taken = run_inputs.take_numbers(store, run_id, input_id, known)
        if taken is None:
            raise Overtaken
        token, state = taken
        written = cut(state)
        queue.put_batches(store, input_id, run_id, written.batches, token)
        queue.drop_pending_from(store, input_id, run_id, written.next_number, before=token)
        if run_inputs.set_input_if_unchanged(
            store, run_id, input_id, {"claims": token}, written.changes
        ):
            return True
        queue.drop_overtaken(store, input_id, run_id, token)
        return False

    def begin(self, at: datetime) -> None:
        """Note that the extraction has begun, unless another call has noted that."""
        changes: InputChanges = {"status": InputStatus.EXTRACTING, "started_at": at}
        run_inputs.set_input_if_unchanged(
            self.store, self.run_id, self.input_id, {"started_at": None}, changes
        )

    def note(self, **changes: Unpack[InputChanges]) -> bool:
        """Note something of the input; False if its extraction is over."""
        return run_inputs.set_input_if_unchanged(
            self.store, self.run_id, self.input_id, {}, changes
        )

    def advance(self, known: Filter, changes: InputChanges) -> None:
        """Store progress that no batches go with.

        Raises:
            Overtaken: another call is further.
        """
        if not run_inputs.set_input_if_unchanged(
            self.store, self.run_id, self.input_id, known, changes
        ):
            raise Overtaken

    def end(self, known: Filter, next_number: int, changes: InputChanges) -> None:
        """End the extraction here, which only who is as far as anybody can.

        Args:
            known: as for `write`.
            next_number: the number after the last batch that counts. Beyond it there is only what
                calls have left that died or were overtaken; it is dropped.
            changes: the end, as it is stored.

        Raises:
            Overtaken: another call is further, or has ended it, or the run has ended.
        """
        self.advance(known, changes)
        self.drop_from(next_number)

    def refuse(self, error: StoredError) -> bool:
        """End the extraction of an input that is refused as a whole: nothing of it is loaded.

        Returns:
            False if the extraction is over.
        """
        if not self.note(status=InputStatus.FAILED, error=error):
            return False
        self.drop_from(0)
        return True

    def drop_from(self, number: int) -> None:
        """Drop the pending batches from a number on."""
        queue.drop_pending_from(self.store, self.input_id, self.run_id, number)

    def numbers(self, below: int) -> list[int]:
        """The numbers of the batches that count and are to be loaded yet, ascending."""
        return queue.numbers(self.store, self.run_id, self.input_id, below)
