#!/usr/bin/env python3
"""TensorBoard's own reader must see what log.jsonl says.

usage: check_tensorboard.py RUN              a run folder
       check_tensorboard.py --write PROGRAM  one that `PROGRAM --write RUN` makes; PROGRAM is test_metrics
Exit status: 0 the same, 1 different, 77 TensorBoard is not installed (skipped).
"""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

TAGS = {
    "train": ["loss", "ce", "aux", "z", "lr", "grad_norm", "update_rms"],
    "speed": ["tps", "mfu", "mem_mb", "seconds"],
    "eval": ["val_loss"],
}
LAYERS = ["max_load", "router_entropy"]


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def points_of_log(path):
    """{tag: [(step, value)]}, as float32, without nulls."""
    points = {}

    def add(tag, step, value):
        if value is not None:
            points.setdefault(tag, []).append((step, as_float32(value)))

    for line in path.read_text().splitlines():
        entry = json.loads(line)
        for group, names in TAGS.items():
            for name in names:
                add(f"{group}/{name}", entry["step"], entry.get(name))
        for name in LAYERS:
            for layer, value in enumerate(entry.get(name, [])):
                add(f"router/{name}_{layer:02d}", entry["step"], value)
    return points


def check(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    expected = points_of_log(run / "log.jsonl")
    wrong = 0
    for tag, points in expected.items():
        found = [(e.step, e.value) for e in events.Scalars(tag)]
        same = len(found) == len(points) and all(
            s == t and math.isclose(x, y, rel_tol=0, abs_tol=0) for (s, x), (t, y) in zip(points, found)
        )
        if not same:
            wrong += 1
            print(f"{tag}: expected {points}, TensorBoard found {found}")
    n_point = sum(map(len, expected.values()))
    print(f"{len(expected)} tags, {n_point} points, {wrong} tags differ")
    return 1 if wrong or not n_point else 0


def main(arguments):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        print("skipped: TensorBoard is not installed")
        return 77
    if len(arguments) == 1:
        return check(pathlib.Path(arguments[0]))
    if len(arguments) != 2 or arguments[0] != "--write":
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as run:
        subprocess.run([arguments[1], "--write", run], check=True)
        return check(pathlib.Path(run))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
