#define ML_ADAMW_UPDATE ml_adamw_update_scalar
#include "optim/adamw_body.h"

#include "base/cpu.h"
#include "base/thread.h"

double ml_adamw_update(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return ml_adamw_update_avx512(a, value, grad, m, v, n);
    if (ml_cpu_isa() >= ML_ISA_AVX2) return ml_adamw_update_avx2(a, value, grad, m, v, n);
#endif
    return ml_adamw_update_scalar(a, value, grad, m, v, n);
}

typedef struct {
    const ml_adamw *rule;
    const ml_param *param;
    const ml_optim_moments *moments;
    double *squares; /* [blocks] */
} adamw_work;

static void update_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const adamw_work *w = arg;
    int64_t count = ml_param_count(w->param);
    for (int64_t b = begin; b < end; b++) {
        int64_t at = b * ML_OPTIM_BLOCK, n = count - at < ML_OPTIM_BLOCK ? count - at : ML_OPTIM_BLOCK;
        w->squares[b] = ml_adamw_update(w->rule, w->param->value + at, w->param->grad + at, w->moments->m + at,
                                        w->moments->v + at, n);
    }
}

double ml_adamw_update_param(const ml_adamw *a, const ml_param *param, const ml_optim_moments *moments,
                             double *block_squares)
{
    adamw_work work = { .rule = a, .param = param, .moments = moments, .squares = block_squares };
    int64_t blocks = ml_optim_n_block(ml_param_count(param));
    if (blocks == 1)
        update_blocks(&work, 0, 1, 0);
    else
        ml_parallel_for(blocks, 1, update_blocks, &work);
    return ml_optim_sum(block_squares, blocks);
}
