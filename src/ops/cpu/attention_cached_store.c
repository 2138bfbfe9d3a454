/* Writing the rows of new tokens into a cache. */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel_rows.h"

#include <stdatomic.h>

enum { ROWS_PER_TASK = 16 };

typedef struct {
    const ml_rows_kernel *kernel;
    const ml_kv_view *kv;
    const ml_tensor *k, *k_tail, *v;
    const int32_t *seq_of_token, *pos;
    _Atomic int64_t refused; /* a token whose values do not fit the type; -1: none */
} store_work;

static bool store_part(const store_work *w, const ml_tensor *x, int64_t t, char *to)
{
    return !x || w->kernel->store(w->kv->dtype, ml_f32(x) + t * x->stride, to, x->dim[1]);
}

static void store_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    store_work *w = arg;
    const ml_kv_view *kv = w->kv;
    size_t tail_at = ml_dtype_row_bytes(kv->dtype, w->k->dim[1]);
    for (int64_t t = begin; t < end; t++) {
        int64_t row = ml_kv_row(kv, w->seq_of_token[t], w->pos[t]);
        char *k = kv->k + row * kv->k_row_bytes;
        bool good = store_part(w, w->k, t, k) && store_part(w, w->k_tail, t, k + tail_at) &&
                    (!w->v || store_part(w, w->v, t, kv->v + row * kv->v_row_bytes));
        if (!good) w->refused = t;
    }
}

/* Bytes of a row's parts; -1 when one is not whole blocks. */
static int64_t parts_bytes(ml_dtype dtype, const ml_tensor *a, const ml_tensor *b)
{
    size_t first = 0, second = 0;
    if (a && !ml_dtype_row_bytes_checked(dtype, a->dim[1], &first)) return -1;
    if (b && !ml_dtype_row_bytes_checked(dtype, b->dim[1], &second)) return -1;
    return (int64_t)(first + second);
}

static ml_status check_rows(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                            const ml_tensor *v)
{
    int64_t k_bytes = parts_bytes(kv->dtype, k, k_tail), v_bytes = parts_bytes(kv->dtype, v, NULL);
    if (k_bytes < 0 || v_bytes < 0) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a token's %lld + %lld + %lld columns are not whole blocks of %s each",
                           (long long)k->dim[1], (long long)(k_tail ? k_tail->dim[1] : 0),
                           (long long)(v ? v->dim[1] : 0), ml_dtype_name(kv->dtype));
    }
    if (k_bytes > kv->k_row_bytes || v_bytes > kv->v_row_bytes) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a cache row of %lld + %lld bytes cannot hold a token of %lld + %lld",
                           (long long)kv->k_row_bytes, (long long)kv->v_row_bytes, (long long)k_bytes,
                           (long long)v_bytes);
    }
    return ML_OK;
}

ml_status ml_kv_store(ml_ctx *ctx, const ml_kv_view *kv, ml_tensor *k, ml_tensor *k_tail, ml_tensor *v,
                      ml_tensor *seq_of_token, ml_tensor *pos)
{
    if (ctx->error.code != ML_OK || !k || !seq_of_token || !pos) return ctx->error.code;
    ML_TRY(ml_cached_check(ctx, kv, seq_of_token, pos, 0));
    ML_TRY(check_rows(ctx, kv, k, k_tail, v));
    store_work work = { ml_rows_kernel_get(), kv, k, k_tail, v, ml_i32(seq_of_token), ml_i32(pos), -1 };
    ml_parallel_for(pos->dim[0], ROWS_PER_TASK, store_rows, &work);
    if (work.refused >= 0) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "the keys or values of position %d are not finite or beyond 65504, the largest number of a "
                           "%s cache: use --kv-cache-type bf16 or f32",
                           ml_i32(pos)[work.refused], ml_dtype_name(kv->dtype));
    }
    return ML_OK;
}
