/* Attention of prompts over a cache in tiles on the matrix unit (ML_PRECISION_BF16): attention_cached_prompt.cu decides
 * which positions' keys and values are packed when, and who walks them; attention_cached_prompt.cu (grouped queries)
 * and attention_cached_prompt_mla.cu (latent) pack them. */
#ifndef ML_OPS_CUDA_PROMPT_CUH
#define ML_OPS_CUDA_PROMPT_CUH

#include "ops/cuda/cached.cuh"
#include "ops/cuda/flash.cuh"

/* Columns of cached rows, packed: of n_head heads, head_bytes apart in a row. */
typedef struct {
    const char *from;   /* column `begin` of head 0 in row 0 of the cache */
    int64_t row_bytes;  /* of the cache */
    int64_t head_bytes; /* 0: all heads get the same */
    uint16_t *to;       /* [n_head, n_position, size] */
    int n_head;
    int begin, end, size; /* columns begin .. end - 1 are the cache's, those from `end` on zero; those before `begin`
                             are somebody else's, begin < size */
} ml_cached_part;

enum { ML_CACHED_PARTS = 3 };

/* Pack parts of the positions of w's slices. */
ml_status ml_cuda_pack_cached(ml_ctx *ctx, const ml_kv_view *kv, const ml_flash_cached *w, const ml_cached_part *part,
                              int n_part);

/* Makes w->k and w->v of w's slices, in scratch. */
typedef ml_status ml_cuda_prompt_fill(ml_ctx *ctx, const ml_cached_heads *h, const void *arg, ml_flash_cached *w);

typedef struct {
    const ml_cached_heads *heads;
    ml_cuda_prompt_fill *fill;
    const void *arg;        /* of fill */
    int64_t position_bytes; /* that fill takes for a position */
} ml_cuda_prompt;

/* Can prompts of these heads go through tiles here, and do products round to bf16? */
bool ml_cuda_prompt_in_tiles(ml_ctx *ctx, const ml_cached_heads *h);
/* y of the tokens from `first` on. */
ml_status ml_cuda_prompt_run(ml_ctx *ctx, const ml_cuda_prompt *p, int64_t first);

ml_status ml_cuda_prompt_grouped(ml_ctx *ctx, const ml_cached_heads *h, int64_t first);
ml_status ml_cuda_prompt_latent(ml_ctx *ctx, const ml_cached_heads *h, const ml_mla_weights *weights,
                                const ml_mla_param *p, int64_t first);

#endif
