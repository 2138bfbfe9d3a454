/* Which codec reads and writes a block type; the checks before writing. */
#include "tensor/blocks.h"

#include "base/thread.h"
#include "tensor/blocks_codec.h"

#include <assert.h>
#include <math.h>

enum { ELEMENTS_PER_TASK = 16384 };

typedef void (*put_fn)(const float *x, const float *importance, uint8_t *b);

/* Types that can be written. */
static const put_fn put[ML_N_DTYPE] = {
    [ML_Q8_0] = ml_block_put_q8_0, [ML_Q4_0] = ml_block_put_q4_0, [ML_Q5_0] = ml_block_put_q5_0,
    [ML_Q5_1] = ml_block_put_q5_1, [ML_Q4_K] = ml_block_put_q4_k, [ML_Q5_K] = ml_block_put_q5_k,
    [ML_Q6_K] = ml_block_put_q6_k,
};

void ml_dequantize(ml_dtype dtype, const void *src, float *dst, int64_t n)
{
    int64_t length = ml_dtype_block_length(dtype);
    assert(ml_dtype_is_block(dtype) && n % length == 0);
    ml_block_read_get(dtype)(src, n / length, dst);
}

bool ml_can_quantize(ml_dtype dtype)
{
    return put[dtype] != NULL;
}

typedef struct {
    ml_dtype dtype;
    const float *x, *importance;
    int64_t blocks_per_row;
    uint8_t *dst;
} quantize_work;

static void quantize_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const quantize_work *w = arg;
    int64_t length = ml_dtype_block_length(w->dtype);
    for (int64_t i = begin; i < end; i++) {
        const float *importance = w->importance ? w->importance + i % w->blocks_per_row * length : NULL;
        put[w->dtype](w->x + i * length, importance, w->dst + (size_t)i * ml_dtype_block_bytes(w->dtype));
    }
}

static ml_status check_values(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_col, ml_error *err)
{
    const float limit = 65504; /* the largest half: every scale and minimum of a block is no larger than its values */
    for (int64_t row = 0; row < n_row; row++) {
        bool fine = true;
        for (int64_t i = 0; i < n_col; i++) fine &= fabsf(x[row * n_col + i]) <= limit;
        for (int64_t i = 0; !fine && i < n_col; i++) {
            float value = x[row * n_col + i];
            if (fabsf(value) <= limit) continue;
            return ml_fail(err, ML_EINVAL,
                           "row %lld, column %lld is %g; %s needs finite values of at most %g: keep this tensor in f32",
                           (long long)row, (long long)i, (double)value, ml_dtype_name(dtype), (double)limit);
        }
    }
    return ML_OK;
}

ml_status ml_quantize_rows(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_col, const float *importance,
                           void *dst, ml_error *err)
{
    if (!ml_can_quantize(dtype)) {
        return ml_fail(err, ML_EINVAL,
                       "%s can be read but not written: choose q8_0, q6_k, q5_k, q4_k, q5_1, q5_0 or q4_0",
                       ml_dtype_name(dtype));
    }
    int64_t length = ml_dtype_block_length(dtype);
    if (n_col % length) {
        return ml_fail(
            err, ML_EINVAL,
            "rows of %lld elements cannot be %s, which has blocks of %lld: choose a type with smaller blocks",
            (long long)n_col, ml_dtype_name(dtype), (long long)length);
    }
    ML_TRY(check_values(dtype, x, n_row, n_col, err));
    for (int64_t i = 0; importance && i < n_col; i++) {
        if (importance[i] >= 0 && isfinite(importance[i])) continue;
        return ml_fail(err, ML_EINVAL, "the importance of column %lld is %g; expected a finite number, 0 or more",
                       (long long)i, (double)importance[i]);
    }
    quantize_work work = { dtype, x, importance, n_col / length, dst };
    ml_parallel_for(n_row * work.blocks_per_row, ELEMENTS_PER_TASK / length, quantize_blocks, &work);
    return ML_OK;
}
