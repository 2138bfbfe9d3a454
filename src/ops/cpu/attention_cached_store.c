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

ml_status ml_cpu_kv_store(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                          const ml_tensor *v, const int32_t *seq, const int32_t *pos)
{
    ML_TRY(ml_cached_check(ctx, kv, seq, pos, k->dim[0]));
    store_work work = { ml_rows_kernel_get(), kv, k, k_tail, v, seq, pos, -1 };
    ml_parallel_for(k->dim[0], ROWS_PER_TASK, store_rows, &work);
    if (work.refused >= 0) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "the keys or values of position %d are not finite or beyond 65504, the largest number of a "
                           "%s cache: use --kv-cache-type bf16 or f32",
                           pos[work.refused], ml_dtype_name(kv->dtype));
    }
    return ML_OK;
}
