"""What compressing updates costs in score and saves in bytes: the activity data, subjects nobody has seen, each form beside none.

    python bench/update_sizes.py --data DIR [--json]

DIR has har_smartphone/. Every update goes through the product's own codec, with its error feedback, in learn.fleet.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec

from quality import ACTIVITY_TEST, _recorded
from recordings import activity_subject
from wardround.learn.fleet import Fleet
from wardround.learn.models import encode_model, is_buffer
from wardround.learn.scores import METRICS
from wardround.learn.study import CompressionSettings, RoundSettings, Study
from wardround.learn.study_example import PRESETS
from wardround.process.transforms import TASKS
from wardround.records import concatenate

ROUNDS = 30
FORMS = (
    CompressionSettings(),
    CompressionSettings(zstd=True),
    CompressionSettings(update="float16"),
    CompressionSettings(update="float16", zstd=True),
    CompressionSettings(update="int8"),
    CompressionSettings(update="int8", zstd=True),
    CompressionSettings(update="top-k", top_k_share=0.1),
    CompressionSettings(update="top-k", top_k_share=0.01),
    CompressionSettings(update="top-k", top_k_share=0.01, zstd=True),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    files = {int(p.stem.removeprefix("subject")): p for p in sorted((given.data / "har_smartphone").glob("subject*.parquet"))}
    task = TASKS["activity"]
    train, test = _recorded(task.examples, files, ACTIVITY_TEST, activity_subject)
    unseen = concatenate(test.values(), task.feature_names)
    study = Study(
        name="compression",
        task="activity",
        learner=PRESETS["activity"],
        rounds=RoundSettings(count=ROUNDS, edges_min=1, examples_min=1),
    )
    rows: list[dict[str, Any]] = []
    for form in FORMS:
        fleet = Fleet(msgspec.structs.replace(study, compression=form), train, classes=len(task.classes))
        *_, last = fleet.run()
        whole = len(encode_model({n: t for n, t in last.model.items() if not is_buffer(n)}))
        sent = fleet.sent_bytes / (ROUNDS * len(fleet.names)) if fleet.sent_bytes else whole
        probabilities = fleet.learner.predict(last.model, unseen.features)
        scores = {metric: METRICS[metric](unseen.labels, probabilities) for metric in ("accuracy", "macro-f1")}
        name = form.update + (f" {form.top_k_share:g}" if form.update == "top-k" else "") + (" + zstd" if form.zstd else "")
        rows.append({"form": name, "bytes_an_update": round(sent), "times_smaller": whole / sent, **scores})
        if not given.json:
            row = rows[-1]
            print(f"{name:18} {row['bytes_an_update']:8} B  {row['times_smaller']:6.1f}x", *(f"{scores[m]:.4f}" for m in scores))
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
