#!/usr/bin/env python3
"""TensorBoard's own reader must see what log.jsonl says.

usage: check_tensorboard.py RUN          a run folder, e.g. one that `test_metrics --write RUN` made
Exit status: 0 the same, 1 different, 77 TensorBoard is not installed (skipped).
"""
import json
import math
import pathlib
import struct
import sys

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


def main():
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        print("skipped: TensorBoard is not installed")
        return 77
    run = pathlib.Path(sys.argv[1])
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


if __name__ == "__main__":
    sys.exit(main())
