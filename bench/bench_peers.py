#!/usr/bin/env python3
"""The program against ik_llama.cpp or llama.cpp on one GGUF file, taking turns.

    bench_peers.py --program build/release/moonlight --peer FOLDER/llama-bench --model m16.gguf [--rounds 4] [...]

A round measures both, one right after the other, and the next round begins with the other one: where neighbours of a
virtual machine take memory bandwidth from one minute to the next, only what ran side by side compares.  Each loads the
model anew.  Prints every round with the read rate that the program measured in it, then medians and the median of the
rounds' ratios.  The peer gets --peer-flags (ik_llama.cpp's best on a CPU unless told otherwise).
"""
import argparse
import json
import shlex
import statistics
import subprocess


def output_of(options, command):
    done = subprocess.run([*shlex.split(options.under), *map(str, command)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def measure_ours(options):
    """-> {what: tokens per second}, GB/s that a read loop got in the same run."""
    depths = [word for depth in options.depth for word in ("--depth", depth)]
    out = json.loads(output_of(options, [options.program, "bench", "--model", options.model, "--prompt", options.prompt,
                                         "--gen", options.gen, "--repeat", 1, "--threads", options.threads, "--json",
                                         *depths, *shlex.split(options.flags)]))
    rates = {}
    for at in out["depths"]:
        if options.prompt:
            rates[f"prefill of {options.prompt} at {at['depth']}"] = at["prefill_tps"]
        rates[f"decode at {at['depth']}"] = at["decode_tps"]
    return rates, out["read_bytes_per_second"] * 1e-9


def measure_peer(options):
    tests = ["-p", options.prompt, "-n", options.gen if 0 in options.depth else 0]
    for depth in options.depth:
        if depth:
            tests += ["-gp", f"{depth},{options.gen}"]
    out = json.loads(output_of(options, [options.peer, "-m", options.model, "-t", options.threads, "-r", 1, "-o",
                                         "json", *tests, *shlex.split(options.peer_flags)]))
    rates = {}
    for test in out:
        if test["n_gen"] == 0:
            rates[f"prefill of {test['n_prompt']} at 0"] = test["avg_ts"]
        else:
            rates[f"decode at {test['n_prompt']}"] = test["avg_ts"]
    return rates, out[0]["build_commit"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/moonlight")
    parser.add_argument("--model", required=True, help="a GGUF file that both read")
    parser.add_argument("--peer", required=True, help="the peer's llama-bench")
    parser.add_argument("--peer-flags", default="-rtr 1 -fmoe 1 -mla 3 -fa 1")
    parser.add_argument("--flags", default="", help="more options of `moonlight bench`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prefill; 0: none")
    parser.add_argument("--gen", type=int, default=32)
    parser.add_argument("--depth", type=int, action="append", help="tokens before a decode; may be repeated")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--under", default="", help="a command that runs each of the programs, like `nice -n -5`")
    options = parser.parse_args()
    options.depth = options.depth or [0]
    ours, peers, read = [], [], []
    for i in range(options.rounds):
        if i % 2:
            peer, version = measure_peer(options)
        rates, probe = measure_ours(options)
        if i % 2 == 0:
            peer, version = measure_peer(options)
        ours.append(rates)
        peers.append(peer)
        read.append(probe)
        both = [f"{what} {rates[what]:.2f} / {peer[what]:.2f}" for what in rates if what in peer]
        print(f"round {i + 1}: read {probe:.1f} GB/s; " + "; ".join(both), flush=True)
    print(f"peer {version}: {options.peer_flags}; {options.threads} threads; ours, peer, ratio: medians of {options.rounds}")
    for what in ours[0]:
        if what not in peers[0]:
            continue
        a, b = [r[what] for r in ours], [r[what] for r in peers]
        ratio = statistics.median(x / y for x, y in zip(a, b))
        print(f"{what:24} {statistics.median(a):8.2f} {statistics.median(b):8.2f} {ratio:6.2f}")
    print(f"{'read, GB/s':24} {statistics.median(read):8.1f}")


main()
