/* One case file per line of ops.def; the runner (test_ops.c) does the rest:
 *   - forward, against the double-precision reference, within ops.def's tolerance;
 *   - backward, against central differences of that reference taken in double precision;
 *   - the same bits with 1 and 2 threads, and with every instruction set the machine has;
 *   - of an operator that fuses others, their bits;
 *   - with the argument `cuda`, on a GPU: forward and backward against the same reference, every gradient beside the
 *     processor's, the same bits when run again, and nothing written around the operands; with `cuda-bf16` the same of
 *     the operators that have products, in bf16.
 * The reference is written from the equations, without a look at the operator. */
#ifndef ML_TESTS_OPS_CASE_H
#define ML_TESTS_OPS_CASE_H

#include "base/rng.h"
#include "ops/ops.h"

typedef struct {
    ml_dtype dtype; /* ML_F32 or ML_I32 */
    int n_dim;      /* 0: this optional input is absent */
    int64_t dim[ML_MAX_DIM];
    bool constant;  /* fp32 but not differentiable (the router's bias) */
    double *real;   /* values of an fp32 input, exactly representable in fp32 */
    int32_t *whole; /* values of an i32 input */
} test_input;

typedef struct {
    int variant; /* 0 .. n_variant-1 */
    test_input in[ML_OP_MAX_IN];
    union {
        ml_rmsnorm_param rmsnorm;
        ml_rope_param rope;
        ml_attention_param attention;
        ml_add_param add;
        ml_router_param router;
        ml_router_loss_param router_loss;
        ml_experts_param experts;
        ml_experts_lora_param experts_lora;
        ml_lora_param lora;
    } param;
    /* fp32 outputs in the operator's order: number of elements, 0 for an output the reference skips (i32) */
    int64_t out_count[ML_OP_MAX_OUT];
    /* Forward tolerance, where it is more than that of ops.def: TEST_ROUNDED where activations are rounded to bf16. */
    double forward_tolerance;
} test_case;

/* A rounding to bf16 moves an activation by up to 2^-9 of it; two in a row, and outputs smaller than their terms.  A
 * term of k = 300 that is left out moves an output by more than 1 / sqrt(300) of its size, 7 times this. */
#define TEST_ROUNDED (1.0 / 128)

typedef struct {
    int n_variant;
    /* Describe inputs and param of c->variant with test_real / test_whole (below), and set out_count. */
    void (*make)(test_case *c, ml_rng *rng);
    /* Call the public builder; in[i] is NULL for an absent input.  Fill out[] in the operator's order. */
    void (*build)(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out);
    /* Of an operator that does what others do one after another: these.  Outputs and gradients have the same bits. */
    void (*build_twin)(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out);
    /* Double-precision forward from c->in[] to out[], each out_count[i] long. */
    void (*reference)(const test_case *c, double *const *out);
    /* For an operator that seeds its own backward: the loss it differentiates, from the reference outputs.
     * NULL: a random linear form of the outputs. */
    double (*own_loss)(const test_case *c, double *const *out);
    /* In ML_PRECISION_BF16, where the tolerance depends on the case: that of forward; backward's is twice that, since
     * gradients come from twice as many rounded operands. */
    double (*bf16_tolerance)(const test_case *c);
    /* Optional further checks on the built outputs (i32 outputs, invariants); fails through cmocka. */
    void (*check)(const test_case *c, ml_tensor *const *out);
} test_op;

/* Fill input i: fp32, normal with the given standard deviation, rounded to fp32. */
void test_real(test_case *c, int i, int n_dim, const int64_t *dims, double std, ml_rng *rng);
/* A contiguous fp32 tensor as another type, in ctx.  NULL on failure. */
ml_tensor *test_convert(ml_ctx *ctx, ml_tensor *w, ml_dtype dtype);
/* Fill input i: i32 copied from values. */
void test_whole(test_case *c, int i, int n_dim, const int64_t *dims, const int32_t *values);

#define ML_OP(name, ...) extern const test_op test_op_##name;
#include "ops/ops.def"
#undef ML_OP

#endif
