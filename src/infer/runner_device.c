#include "infer/runner_device.h"

#include "base/alloc.h"

#include <string.h>

enum { POINTER = sizeof(void *) / sizeof(int32_t) };

ml_status ml_runner_device_make(ml_runner_device *d, ml_device *device, const ml_pages *pages, int64_t max_token,
                                int64_t d_model, int32_t spare_page, ml_error *err)
{
    void *there;
    *d = (ml_runner_device){ .device = device,
                             .n_seq = pages->n_seq,
                             .n_table = (pages->n_seq + 1) * pages->pages_per_seq };
    /* An id, a position, a sequence and a pointer for each token, and room to align these. */
    int64_t n = d->n_table + (3 + POINTER) * max_token + POINTER;
    size_t n_bytes = (size_t)n * sizeof *d->here;
    d->here = ml_calloc((size_t)n, sizeof *d->here);
    d->hidden_here = ml_calloc((size_t)d_model, sizeof *d->hidden_here);
    if (!d->here || !d->hidden_here) return ml_fail_memory(err, n_bytes, "a runner");
    for (int64_t i = pages->n_seq * pages->pages_per_seq; i < d->n_table; i++) d->here[i] = spare_page;
    ML_TRY(ml_device_alloc(device, n_bytes, "a pass's tokens", &there, err));
    d->there = there;
    return ML_OK;
}

void ml_runner_device_free(ml_runner_device *d)
{
    if (!d->device) return;
    for (int i = 0; i < d->n_pass; i++) ml_device_graph_free(d->pass[i].graph);
    if (d->there) ml_device_release(d->device, d->there);
    ml_free(d->here);
    ml_free(d->hidden_here);
}

ml_status ml_runner_device_put(ml_runner_device *d, ml_ctx *ctx, const ml_pages *pages, int64_t n, int64_t n_run,
                               const int32_t *id, const int32_t *pos, const int32_t *seq,
                               const ml_token_term *const *terms, ml_pass_input *out, ml_error *err)
{
    const int32_t *const given[3] = { id, pos, seq };
    const int32_t fill[3] = { 0, 0, (int32_t)d->n_seq };
    ml_tensor **const tensor[3] = { &out->id, &out->pos, &out->seq };
    memcpy(d->here, pages->table, (size_t)(pages->n_seq * pages->pages_per_seq) * sizeof *d->here);
    for (int i = 0; i < 3; i++) {
        int32_t *here = d->here + d->n_table + i * n_run;
        memcpy(here, given[i], (size_t)n * sizeof *here);
        for (int64_t t = n; t < n_run; t++) here[t] = fill[i];
        *tensor[i] = ml_ctx_scratch(ctx, sizeof(ml_tensor));
        if (!*tensor[i]) return ml_ctx_status(ctx, err);
        **tensor[i] = ml_tensor_describe(ML_I32, 1, &n_run, d->there + (here - d->here));
        (*tensor[i])->device = d->device;
        (*tensor[i])->here = here;
    }
    out->page_table = d->there;
    out->terms = NULL;
    int64_t end = d->n_table + 3 * n_run;
    if (terms) {
        int64_t at = (end + POINTER - 1) / POINTER * POINTER;
        out->terms = (void *)(d->there + at);
        end = at + POINTER * n_run;
        memset(d->here + at, 0, (size_t)(end - at) * sizeof *d->here);
        memcpy(d->here + at, terms, (size_t)n * sizeof *terms);
    }
    return ml_device_upload(d->device, d->there, d->here, (size_t)end * sizeof *d->here, err);
}

int64_t ml_decode_round_up(int64_t n)
{
    int64_t step = n <= 8 ? 1 : n <= 64 ? 8 : 32;
    return n <= ML_DECODE_MOST ? (n + step - 1) / step * step : 0;
}

ml_decode_pass *ml_runner_device_find(ml_runner_device *d, int64_t n, bool has_terms)
{
    for (int i = 0; i < d->n_pass; i++) {
        if (d->pass[i].n == n && d->pass[i].has_terms == has_terms) return &d->pass[i];
    }
    ml_decode_pass *pass = &d->pass[d->n_pass++]; /* 8 + 7 + 6 numbers fit twice */
    *pass = (ml_decode_pass){ .n = n, .has_terms = has_terms };
    return pass;
}

void ml_runner_device_drop_terms(ml_runner_device *d)
{
    for (int i = 0; i < d->n_pass; i++) {
        ml_decode_pass *pass = &d->pass[i];
        if (!pass->has_terms) continue;
        ml_device_graph_free(pass->graph);
        *pass = (ml_decode_pass){ .n = pass->n, .has_terms = true };
    }
}
