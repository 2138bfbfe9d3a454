/* The tensors of a model's GGUF file, and which of our weights each is made of. */
#ifndef ML_FORMAT_GGUF_LAYOUT_H
#define ML_FORMAT_GGUF_LAYOUT_H

#include "format/gguf_arch.h"
#include "format/gguf_names.h"
#include "model/config.h"

enum { ML_GGUF_OUR_NAME_MAX = 112 };

/* How a part of the file's tensor comes from the weight. */
typedef enum {
    ML_GGUF_AS_IS,
    ML_GGUF_KEYS_OF_KV_B,   /* part h: the transposed [nope, kv_lora] of head h of kv_b_proj */
    ML_GGUF_VALUES_OF_KV_B, /* part h: the [v, kv_lora] of head h */
    ML_GGUF_PAIRED_ROWS,    /* rows i and i + n/2 of each head's first rotary_dim become 2i and 2i + 1 */
    ML_GGUF_ZEROS,          /* a bias that the architecture has and this model has not */
    ML_GGUF_ROPE_DIVISORS,  /* of Llama 3's scaling, from the configuration */
} ml_gguf_form;

/* One tensor: n_part parts of rows x cols, one after another. */
typedef struct {
    char name[ML_GGUF_TENSOR_NAME_MAX];
    char ours[ML_GGUF_OUR_NAME_MAX]; /* with "*" for the number of the expert */
    ml_gguf_form form;
    bool is_experts; /* part e is expert e */
    int64_t layer;   /* -1: none */
    int64_t n_part, rows, cols;
    int n_dim; /* 1: cols alone; 2: rows, cols; 3: all */
} ml_gguf_entry;

typedef struct {
    ml_gguf_entry *entry;
    size_t n;
} ml_gguf_layout;

/* `pair_rows`: q and k come with rotate-half rows, while the file's architecture has them interleaved.  split_kv_b:
 * the source has kv_b_proj whole. */
ml_status ml_gguf_layout_make(const ml_config *c, const ml_gguf_arch *arch, bool pair_rows, bool split_kv_b,
                              ml_gguf_layout *out, ml_error *err);
void ml_gguf_layout_free(ml_gguf_layout *layout);
/* The name of part i's weight. */
void ml_gguf_entry_part_name(const ml_gguf_entry *e, int64_t part, char out[ML_GGUF_OUR_NAME_MAX]);

#endif
