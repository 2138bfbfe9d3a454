"""llama.cpp through llama-cpp-python, for the checks beside this file: the one program that both are compared with."""
import os
import sys


def run_inside():
    """Once more, as the Python that MOONLIGHT_LLAMA_CPP_PYTHON names; without that name the check ends with status 77."""
    python = os.environ.get("MOONLIGHT_LLAMA_CPP_PYTHON")
    if not python:
        print("skipped: MOONLIGHT_LLAMA_CPP_PYTHON names a Python with llama-cpp-python")
        sys.exit(77)
    if "MOONLIGHT_LLAMA_CPP_INSIDE" not in os.environ:
        os.environ["MOONLIGHT_LLAMA_CPP_INSIDE"] = "1"
        os.execv(python, [python, *sys.argv])


class LlamaCpp:
    """One file, on one thread.  cache "f32": keys and values in fp32 and plain attention; "f16": what llama.cpp takes
    unless told otherwise, halves and its flash attention, which sums values in halves."""

    def __init__(self, file, cache="f32"):
        import llama_cpp
        kind = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16}[cache]
        self.llama = llama_cpp.Llama(str(file), n_ctx=256, n_threads=1, logits_all=True, verbose=False, type_k=kind,
                                     type_v=kind, flash_attn=cache == "f16")

    def tokens_of(self, text):
        return self.llama.tokenize(text.encode(), add_bos=True)

    def text_of(self, ids):
        return self.llama.detokenize(ids, special=True)

    def logits_after(self, tokens, n_last):
        """-> [n_last, vocabulary] float64: after each of the last tokens, which come one at a time"""
        import numpy
        self.llama.reset()
        self.llama.eval(tokens[:-n_last])
        rows = []
        for token in tokens[-n_last:]:
            self.llama.eval([token])
            rows.append(numpy.array(self.llama.scores[self.llama.n_tokens - 1], dtype=numpy.float64))
        return numpy.array(rows)

    def compare(self, prompt, ids, logprobs, bound):
        """Another program's greedy continuation of a prompt and its log-probabilities -> places where another token is
        the likeliest here; those of them where the two largest logits here are `bound` or more apart; differences of
        log-probabilities, ascending; the sum of the tokens' probabilities."""
        import numpy
        logits = self.logits_after(self.tokens_of(prompt) + ids[:-1], len(ids))
        top = numpy.sort(logits, axis=1)[:, -2:]
        here = logits - top[:, 1:] - numpy.log(numpy.exp(logits - top[:, 1:]).sum(axis=1, keepdims=True))
        here = here[numpy.arange(len(ids)), ids]
        other = logits.argmax(axis=1) != ids
        wrong = other & (top[:, 1] - top[:, 0] >= bound)
        return int(other.sum()), int(wrong.sum()), numpy.sort(numpy.abs(here - logprobs)), float(numpy.exp(here).sum())
