#include "support/operands.h"

#include "base/rng.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;

float *test_random_values(uint64_t seed, int64_t n, double std, uint64_t stream)
{
    ml_rng rng = ml_rng_make(seed, stream);
    float *x = malloc((size_t)n * sizeof *x + 1); /* not NULL for n = 0 */
    for (int64_t i = 0; i < n; i++) x[i] = (float)(std * ml_rng_normal(&rng));
    return x;
}

void *test_put(ml_device *device, const void *from, size_t n_bytes)
{
    void *to;
    assert_ok(ml_device_alloc(device, n_bytes, "a test's memory", &to, &err));
    assert_ok(ml_device_upload(device, to, from, n_bytes, &err));
    return to;
}

void test_make_ctx(ml_ctx *ctx, ml_device *device, size_t n_bytes, int64_t n_decode)
{
    assert_ok(ml_ctx_init_on(ctx, device, n_bytes, 0, &err));
    char *bytes = malloc(ctx->data.capacity);
    memset(bytes, 0xff, ctx->data.capacity);
    assert_ok(ml_device_upload(device, ctx->data.base, bytes, ctx->data.capacity, &err));
    free(bytes);
    ctx->mode = ML_MODE_FAST;
    ctx->n_decode = n_decode;
}
