/* Which kernel multiplies what cuBLASLt does not. */
#include "ops/cuda/product.cuh"

void ml_product_run(ml_ctx *ctx, ml_product *g)
{
    ml_product_run_mma(ctx, g);
}
