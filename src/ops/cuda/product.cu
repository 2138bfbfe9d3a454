/* Which kernel multiplies what cuBLASLt does not: mma.sync, which every supported GPU has, until docs/gpu.md names the
 * other one as confirmed; MOONLIGHT_CUDA_GROUPED=wgmma in the environment takes that on Hopper. */
#include "ops/cuda/product.cuh"

#include <cstdlib>

enum { HOPPER = 9 };

void ml_product_run(ml_ctx *ctx, ml_product *g)
{
    const char *wanted = getenv("MOONLIGHT_CUDA_GROUPED");
    if (ctx->device->major == HOPPER && wanted && !strcmp(wanted, "wgmma")) {
        ml_product_run_wgmma(ctx, g);
    } else {
        ml_product_run_mma(ctx, g);
    }
}
