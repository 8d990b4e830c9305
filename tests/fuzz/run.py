"""Every target in turn, each for so many seconds: `python run.py SECONDS [TARGET...]`. Ends with 1 if any has found something.

No input may crash a decoder, take it longer than ten seconds, or take more than 1.5 GB of memory. A finding is kept beside the
corpora in `artifacts/fuzz`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUZZ = ROOT / ".venv" / "fuzz" / "bin" / "python"
SITE = next((ROOT / ".venv" / "lib").glob("python3*/site-packages"))
CORPUS = ROOT / "artifacts" / "fuzz"
DATA = ROOT.parent / "shared" / "data" / "formats"
OPTIONS = ("-timeout=10", "-rss_limit_mb=1536", "-max_len=65536", "-print_final_stats=1")
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]


def main(arguments: list[str]) -> int:
    """Run; 0 when nothing was found."""
    from targets import TARGETS, seeds

    seconds, names = int(arguments[0]), arguments[1:] or list(TARGETS)
    environment = os.environ | {"PYTHONPATH": f"{SITE}:{ROOT / 'src'}:{ROOT / 'tests'}"}
    found = 0
    for name in names:
        corpus = CORPUS / name
        corpus.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(seeds(name, DATA)):
            (corpus / f"seed-{i:03d}").write_bytes(data)
        begun = time.monotonic()
        command = [str(FUZZ), str(Path(__file__).with_name("fuzz.py")), name, str(corpus), *OPTIONS, f"-max_total_time={seconds}"]
        command.append(f"-artifact_prefix={CORPUS}/{name}-")
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 120)
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stderr)
        peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", result.stderr)
        verdict = "nothing found" if result.returncode == 0 else "FOUND"
        facts = f"{runs[1] if runs else '?':>10} inputs  {peak[1] if peak else '?':>5} MB  {time.monotonic() - begun:6.0f} s"
        print(f"{name:18} {facts}  {verdict}", flush=True)
        if result.returncode:
            found += 1
            print(result.stdout[-4_000:], result.stderr[-2_000:], sep="\n", flush=True)  # the traceback is on the first
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
