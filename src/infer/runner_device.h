/* What a runner (infer/runner.h) has on a device: the tokens of a pass as the device reads them, and decode passes kept
 * as graphs.
 *
 * A pass of generated tokens, one of each sequence, is the same launches every time but for what its inputs say: these
 * lie at fixed addresses, its activations too, because the arena is filled in the same order.  So it is captured
 * once for every number of tokens and then launched as one.  Numbers are rounded up to few (1 .. 8, multiples of 8 to
 * 64, of 32 to 256): tokens of a spare sequence, with a page of its own, fill up.  Passes in which somebody has an
 * adapter are others: which one a token has is data too, and what they launch is for the most that any adapter so far
 * has. */
#ifndef ML_INFER_RUNNER_DEVICE_H
#define ML_INFER_RUNNER_DEVICE_H

#include "infer/pages.h"
#include "ops/token_terms.h"

enum { ML_N_DECODE_PASS = 48, ML_DECODE_MOST = 256 };

/* A decode pass of n tokens. */
typedef struct {
    int64_t n;
    bool has_terms;         /* adapters' */
    bool seen, is_eager;    /* has run once; cannot be captured */
    ml_device_graph *graph; /* NULL: not yet */
    ml_tensor hidden;       /* [n, d] */
    float *logits;          /* [n, vocab], there */
    size_t data_used;       /* of the context's arena */
} ml_decode_pass;

typedef struct {
    ml_device *device;     /* NULL: the runner is here, and this is empty */
    int32_t *here, *there; /* page table [n_seq + 1, pages_per_seq], then ids, positions, sequences of the pass, and
                              its tokens' tables of terms */
    int64_t n_seq, n_table;
    float *hidden_here; /* [d] */
    ml_decode_pass pass[ML_N_DECODE_PASS];
    int n_pass;
} ml_runner_device;

/* spare_page: where the tokens that fill up go, beside the sequences' pages. */
ml_status ml_runner_device_make(ml_runner_device *d, ml_device *device, const ml_pages *pages, int64_t max_token,
                                int64_t d_model, int32_t spare_page, ml_error *err);
void ml_runner_device_free(ml_runner_device *d);

typedef struct {
    ml_tensor *id, *pos, *seq; /* [n] */
    const int32_t *page_table;
    const ml_token_term *const *terms; /* [n], there; NULL: none was given */
} ml_pass_input;
/* n tokens, and as many that fill up as make n_run, on their way there; terms: NULL, or of each of the n. */
ml_status ml_runner_device_put(ml_runner_device *d, ml_ctx *ctx, const ml_pages *pages, int64_t n, int64_t n_run,
                               const int32_t *id, const int32_t *pos, const int32_t *seq,
                               const ml_token_term *const *terms, ml_pass_input *out, ml_error *err);

/* n rounded up; 0: too many for a graph. */
int64_t ml_decode_round_up(int64_t n);
/* The decode pass of n tokens, which ml_decode_round_up gave; perhaps a new one. */
ml_decode_pass *ml_runner_device_find(ml_runner_device *d, int64_t n, bool has_terms);
/* What adapters have at most has grown: passes with terms are others now. */
void ml_runner_device_drop_terms(ml_runner_device *d);

#endif
