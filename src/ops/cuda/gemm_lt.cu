/* cuBLASLt's matrices are stored by columns: our row-major c = a b is its c^T = b^T a^T, so that its first operand is
 * our b.
 *
 * The library (hundreds of MB) is neither linked nor asked of the machine: it is opened when the first product comes,
 * and a machine without it uses kernels of our own.  Its choice of an algorithm takes longer than a small product: it
 * is remembered for each shape.  Algorithms that add in an order of chance are excluded. */
#include "ops/cuda/gemm_lt.cuh"

#include <cstdio>
#include <cstdlib>

extern "C" {
#include "base/alloc.h"
}

#if defined(ML_EMULATED) || !__has_include(<cublasLt.h>)

bool ml_lt_run(ml_ctx *ctx, const ml_product *g)
{
    (void)ctx;
    (void)g;
    return false;
}

#else

#include <cublasLt.h>
#include <dlfcn.h>

/* The functions that are used, by name. */
#define LT_FUNCTIONS(F)                                                                                                \
    F(cublasLtCreate)                                                                                                  \
    F(cublasLtDestroy)                                                                                                 \
    F(cublasLtMatmul)                                                                                                  \
    F(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    F(cublasLtMatmulDescCreate)                                                                                        \
    F(cublasLtMatmulDescDestroy)                                                                                       \
    F(cublasLtMatmulDescSetAttribute)                                                                                  \
    F(cublasLtMatrixLayoutCreate)                                                                                      \
    F(cublasLtMatrixLayoutDestroy)                                                                                     \
    F(cublasLtMatrixLayoutSetAttribute)                                                                                \
    F(cublasLtMatmulPreferenceCreate)                                                                                  \
    F(cublasLtMatmulPreferenceDestroy)                                                                                 \
    F(cublasLtMatmulPreferenceSetAttribute)

/* What decides which algorithm is taken. */
typedef struct {
    int m, n, k, n_product, a_align, b_align, c_align;
    int a_transpose, b_transpose, c_is_half, reads_c;
    int64_t a_stride, b_stride, c_stride, a_product, b_product, c_product;
} lt_key;

typedef struct {
    lt_key key;
    bool is_used, has_algorithm;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} lt_shape;

enum { N_SHAPE = 256, WORKSPACE_BYTES = 32 << 20 /* what NVIDIA advises on Hopper */ };

typedef struct {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    size_t workspace_bytes;
    int next; /* shape to be replaced */
    lt_shape shape[N_SHAPE];
#define LT_MEMBER(name) decltype(&name) name##_;
    LT_FUNCTIONS(LT_MEMBER)
#undef LT_MEMBER
} lt_state;

static void forget(lt_state *lt, lt_shape *s)
{
    if (s->product) (void)lt->cublasLtMatmulDescDestroy_(s->product);
    if (s->a) (void)lt->cublasLtMatrixLayoutDestroy_(s->a);
    if (s->b) (void)lt->cublasLtMatrixLayoutDestroy_(s->b);
    if (s->c) (void)lt->cublasLtMatrixLayoutDestroy_(s->c);
    memset(s, 0, sizeof *s);
}

static void free_state(void *state)
{
    lt_state *lt = (lt_state *)state;
    if (lt->handle) {
        for (int i = 0; i < N_SHAPE; i++) forget(lt, &lt->shape[i]);
        (void)lt->cublasLtDestroy_(lt->handle);
    }
    if (lt->workspace) (void)cudaFree(lt->workspace);
    if (lt->library) (void)dlclose(lt->library);
    ml_free(lt);
}

static bool open_library(lt_state *lt)
{
    char name[64];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    lt->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lt->library) {
        snprintf(name, sizeof name, "/usr/local/cuda/lib64/libcublasLt.so.%d", CUBLAS_VER_MAJOR);
        lt->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (!lt->library) return false;
#define LT_FIND(name)                                                                                                  \
    lt->name##_ = (decltype(&name))dlsym(lt->library, #name);                                                          \
    if (!lt->name##_) return false;
    LT_FUNCTIONS(LT_FIND)
#undef LT_FIND
    if (lt->cublasLtCreate_(&lt->handle) == CUBLAS_STATUS_SUCCESS) return true;
    lt->handle = NULL;
    return false;
}

/* The device's state, opened when it is asked for first; without a handle there is no library. */
static lt_state *state_of(ml_device *device)
{
    if (device->lt) return (lt_state *)device->lt;
    lt_state *lt = (lt_state *)ml_calloc(1, sizeof *lt);
    if (!lt) return NULL;
    device->lt = lt;
    device->lt_free = free_state;
    const char *wanted = getenv("MOONLIGHT_CUDA_DENSE");
    if ((wanted && !strcmp(wanted, "own")) || !open_library(lt)) return lt;
    if (cudaMalloc(&lt->workspace, WORKSPACE_BYTES) == cudaSuccess) {
        lt->workspace_bytes = WORKSPACE_BYTES;
    } else {
        (void)cudaGetLastError(); /* then without */
        lt->workspace = NULL;
    }
    return lt;
}

static int alignment_of(const void *p)
{
    int n = 256;
    while ((uintptr_t)p % (uintptr_t)n) n /= 2;
    return n;
}

static bool make_layout(lt_state *lt, cublasLtMatrixLayout_t *out, cudaDataType_t type, int64_t n_row, int64_t n_col,
                        int64_t stride, int n_product, int64_t product)
{
    int32_t n = n_product;
    return lt->cublasLtMatrixLayoutCreate_(out, type, (uint64_t)n_row, (uint64_t)n_col, stride) ==
               CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatrixLayoutSetAttribute_(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n) ==
               CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatrixLayoutSetAttribute_(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &product,
                                                 sizeof product) == CUBLAS_STATUS_SUCCESS;
}

static bool describe(lt_state *lt, lt_shape *s)
{
    const lt_key *k = &s->key;
    cublasOperation_t turned = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    /* Its a is our b: [n, k] by columns, stored as rows of n, or turned as rows of k; its b is our a. */
    return make_layout(lt, &s->a, CUDA_R_16BF, k->b_transpose ? k->k : k->n, k->b_transpose ? k->n : k->k, k->b_stride,
                       k->n_product, k->b_product) &&
           make_layout(lt, &s->b, CUDA_R_16BF, k->a_transpose ? k->m : k->k, k->a_transpose ? k->k : k->m, k->a_stride,
                       k->n_product, k->a_product) &&
           make_layout(lt, &s->c, k->c_is_half ? CUDA_R_16BF : CUDA_R_32F, k->n, k->m, k->c_stride, k->n_product,
                       k->c_product) &&
           lt->cublasLtMatmulDescCreate_(&s->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulDescSetAttribute_(s->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                               k->b_transpose ? &turned : &plain,
                                               sizeof turned) == CUBLAS_STATUS_SUCCESS &&
           lt->cublasLtMatmulDescSetAttribute_(s->product, CUBLASLT_MATMUL_DESC_TRANSB,
                                               k->a_transpose ? &turned : &plain,
                                               sizeof turned) == CUBLAS_STATUS_SUCCESS;
}

static bool choose_algorithm(lt_state *lt, lt_shape *s)
{
    cublasLtMatmulPreference_t wish = NULL;
    if (lt->cublasLtMatmulPreferenceCreate_(&wish) != CUBLAS_STATUS_SUCCESS) return false;
    /* Parts of the inner dimension may be added afterwards, in their order; never in place, as they come. */
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t a = (uint32_t)s->key.b_align, b = (uint32_t)s->key.a_align, c = (uint32_t)s->key.c_align;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t n_bytes;
    } wishes[] = {
        { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &lt->workspace_bytes, sizeof lt->workspace_bytes },
        { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c },
    };
    bool is_set = true;
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes && is_set; i++) {
        is_set = lt->cublasLtMatmulPreferenceSetAttribute_(wish, wishes[i].name, wishes[i].value, wishes[i].n_bytes) ==
                 CUBLAS_STATUS_SUCCESS;
    }
    int n = 0;
    cublasLtMatmulHeuristicResult_t found;
    bool chosen = is_set &&
                  lt->cublasLtMatmulAlgoGetHeuristic_(lt->handle, s->product, s->a, s->b, s->c, s->c, wish, 1, &found,
                                                      &n) == CUBLAS_STATUS_SUCCESS &&
                  n == 1 && found.state == CUBLAS_STATUS_SUCCESS;
    if (chosen) s->algorithm = found.algo;
    (void)lt->cublasLtMatmulPreferenceDestroy_(wish);
    return chosen;
}

/* The remembered shape, or a new one in the place of the oldest. */
static lt_shape *shape_of(lt_state *lt, const lt_key *key)
{
    for (int i = 0; i < N_SHAPE; i++) {
        if (lt->shape[i].is_used && !memcmp(&lt->shape[i].key, key, sizeof *key)) return &lt->shape[i];
    }
    lt_shape *s = &lt->shape[lt->next];
    lt->next = (lt->next + 1) % N_SHAPE;
    forget(lt, s);
    s->key = *key;
    s->is_used = true;
    s->has_algorithm = describe(lt, s) && choose_algorithm(lt, s);
    return s;
}

static bool is_dense(const ml_product *g)
{
    if (g->use != ML_KEEP || g->grouping != ML_GROUP_NONE || g->a.row || g->b.row || g->c_row || g->b2.data)
        return false;
    if (g->k == 0 || (g->accumulate && (g->d || g->d_half || g->c_half))) return false;
    return !(g->d && g->c_half) && !(g->d_half && g->c);
}

bool ml_lt_run(ml_ctx *ctx, const ml_product *g)
{
    if (!is_dense(g)) return false;
    lt_state *lt = state_of(ctx->device);
    if (!lt || !lt->handle) return false;
    void *d = g->c_half ? (void *)g->c_half : (void *)g->c;
    const void *c = g->d ? (const void *)g->d : g->d_half ? (const void *)g->d_half : d;
    lt_key key;
    memset(&key, 0, sizeof key); /* padding too: keys are compared by bytes */
    key.m = g->m;
    key.n = g->n;
    key.k = g->k;
    key.n_product = g->n_product;
    key.a_align = alignment_of(g->a.data);
    key.b_align = alignment_of(g->b.data);
    key.c_align = alignment_of(d) < alignment_of(c) ? alignment_of(d) : alignment_of(c);
    key.a_transpose = g->a_transpose;
    key.b_transpose = g->b_transpose;
    key.c_is_half = g->c_half != NULL;
    key.reads_c = c != d || g->accumulate;
    key.a_stride = g->a.stride;
    key.b_stride = g->b.stride;
    key.c_stride = g->c_stride;
    key.a_product = g->a.product;
    key.b_product = g->b.product;
    key.c_product = g->c_product;
    lt_shape *s = shape_of(lt, &key);
    if (!s->has_algorithm) return false;
    float beta = g->accumulate ? 1.0f : c != d ? g->beta : 0.0f;
    cublasStatus_t status =
        lt->cublasLtMatmul_(lt->handle, s->product, &g->alpha, g->b.data, s->a, g->a.data, s->b, &beta, c, s->c, d,
                            s->c, &s->algorithm, lt->workspace, lt->workspace_bytes, ctx->device->stream);
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    s->has_algorithm = false; /* our own kernel from now on */
    return false;
}

#endif
