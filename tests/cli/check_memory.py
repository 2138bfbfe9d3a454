#!/usr/bin/env python3
"""The memory that answering takes, with weights in place and repacked, on a model of 0.3 GB in the 16B's shapes.
check_memory.py PROGRAM FIXTURES"""
import os
import subprocess
import sys
import tempfile

MB = 1e6
# Program, tokenizer, activations and the cache of a short answer take 50 of these.  A second copy of the weights, at any
# moment, would be four times as much: the map is given back while it is repacked.
BESIDE = 75 * MB


def run(*command):
    """Its largest resident set, in bytes, and what it said on stderr."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.read()
        err = child.stderr.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, err
    return usage.ru_maxrss * 1024, err


def main(program, fixtures):
    with tempfile.TemporaryDirectory(prefix="moonlight-memory-") as work:
        model = work + "/m.gguf"
        run(program, "init", "moonlight-16b", model, "--quant", "q4_k", "--tokenizer", fixtures + "/byte_tokenizer",
            "--model.n_routed_experts", "8", "--model.num_hidden_layers", "5", "--model.vocab_size", "512",
            "--model.bos_token_id", "0", "--model.eos_token_id", "1", "--model.pad_token_id", "2")
        size = os.path.getsize(model)
        assert size > 250 * MB, size
        for repack, says in ("off", "mapped in place"), ("on", "repacked"):
            peak, err = run(program, "generate", "--model", model, "--prompt", "abc", "--max-tokens", "8", "--threads",
                            "2", "--repack", repack)
            print("--repack %-3s %.0f MB with a file of %.0f MB" % (repack, peak / MB, size / MB))
            assert peak <= size + BESIDE
            assert says in err, err


main(*sys.argv[1:])
