"""What must hold of a study whatever was killed and whenever, checked against its journal and its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from wardround.learn.blobs import Blobs
from wardround.learn.journal import Committed, Journal, model_name
from wardround.learn.messages import Done, Order
from wardround.learn.models import MemoryTensors, Parameters, decode_model, digest, encode_model
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import Study

Train = Callable[[str, Order, bytes, bytes], Done]  # edge, order, model, what the edge keeps


def broken_promises(
    study: Study, journal: Journal, blobs: Blobs, train: Train, receipts: Collection[tuple[str, int]]
) -> list[str]:
    """Broken promises in words; none is good.

    Every model is the fold of the updates it names, each once; every update with a receipt is named; what an edge keeps has
    moved once for each update that counts.

    Args:
        train: makes the update of an edge for an order again, to the byte.
        receipts: edge and round of every update that an edge was told counts.
    """
    committed = journal.committed()
    found = [f"round {i} is missing" for i, c in enumerate(committed) if c.number != i]
    counted = Counter((e, c.number - c.staleness.get(e, 0)) for c in committed for e in (*c.folded, *c.aside))
    found += [f"the update of {e} for round {n} counted {times} times" for (e, n), times in counted.items() if times > 1]
    found += [
        f"the update of {edge} for round {number} has a receipt and is lost"
        for edge, number in sorted(receipts)
        if number < len(committed) and (edge, number) not in counted
    ]
    found += _went_back(journal, committed)
    found += _replayed(committed)
    for done in committed[1:]:
        if not done.folded and not done.replayed:
            continue
        model, wrong = _expected_model(study, blobs, train, done, committed)
        found += wrong
        if digest(encode_model(model)) != done.model:
            found.append(f"model {done.number} is not the fold of {sorted(done.folded)}")
    return found + _kept(journal, committed)


def _went_back(journal: Journal, committed: Sequence[Committed]) -> list[str]:
    """Each round starts from the model of the row before it; a rollback's model is the one asked for, and no update of an order
    from before it counts after it."""
    found = [f"round {b.number} does not start from model {a.number}" for a, b in pairwise(committed) if b.base != a.model]
    rows = {r.number: r for r in journal.rollbacks()}
    for done in committed:
        unmoved = done.aside and done.model == done.base  # everything was set aside
        if not done.folded and not done.replayed and not unmoved and done.number not in rows:
            found.append(f"round {done.number} counts nobody")
    requests = Counter(r.request for r in rows.values())
    found += [f"rollback {request} was carried out {n} times" for request, n in requests.items() if n > 1]
    newest = -1
    for done in committed:
        row = rows.get(done.number)
        if row is not None:
            newest = done.number
            if done.folded or done.model != committed[row.to_round].model:
                found.append(f"round {done.number} did not go back to round {row.to_round}")
        bases = [(e, done.number - done.staleness.get(e, 0)) for e in done.folded] + [(r.edge, r.based_on) for r in done.replayed]
        for edge, based_on in bases:
            if based_on <= newest:
                found.append(f"round {done.number} counts an update of {edge} from before the rollback {newest}")
    return found


def _replayed(committed: Sequence[Committed]) -> list[str]:
    """What is replayed had been set aside, comes after it, and counts once."""
    counts = Counter((r.edge, r.from_round) for c in committed for r in c.replayed)
    found = [f"the update of {e} in round {n} was replayed {times} times" for (e, n), times in counts.items() if times > 1]
    return found + [
        f"round {c.number} replays {r.edge} of round {r.from_round}, which was not set aside"
        for c in committed
        for r in c.replayed
        if r.from_round >= c.number or r.edge not in committed[r.from_round].aside
    ]


def _kept(journal: Journal, committed: Sequence[Committed]) -> list[str]:
    """Updates that were trained on what the edge did not keep then; the training says in `kept` how many had counted before."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for done in committed[1:]:
        for edge, update in journal.accepted(done.number).items():
            kept = update.metrics.get("kept", seen[edge])
            if kept != seen[edge]:
                found.append(f"{edge} trained for round {done.number} after {kept:g} updates, not {seen[edge]}")
            seen[edge] += 1
    return found


def _expected_model(
    study: Study, blobs: Blobs, train: Train, done: Committed, committed: Sequence[Committed]
) -> tuple[Parameters, list[str]]:
    found: list[str] = []
    updates = []
    of_round = [(e, done.number - done.staleness.get(e, 0), done.folded[e]) for e in sorted(done.folded)]
    for edge, based_on, counted in of_round + [(str(r.edge), r.based_on, r.examples) for r in done.replayed]:
        asked = committed[based_on]
        order = Order(study.name, asked.number, 1, "train", asked.base, b"", 0.0)
        made = train(edge, order, blobs.read(model_name(asked.base)), b"")
        if made.examples != counted:
            found.append(f"round {done.number} counts {counted} examples of {edge}, not {made.examples}")
        stale = done.number - based_on
        updates.append(WeightedUpdate(MemoryTensors(decode_model(made.data)), made.examples, staleness=stale))
    base = MemoryTensors(decode_model(blobs.read(model_name(done.base))))
    return make_strategy(study.strategy, study.learner).fold(Fold(base, updates)).model, found
