/* Where a GGUF file keeps a weight that has another name here. */
#ifndef ML_FORMAT_GGUF_NAMES_H
#define ML_FORMAT_GGUF_NAMES_H

#include <stdbool.h>
#include <stdint.h>

enum { ML_GGUF_TENSOR_NAME_MAX = 64 }; /* llama.cpp refuses longer ones */

typedef enum {
    ML_GGUF_PLAIN,   /* as it is */
    ML_GGUF_EXPERTS, /* one of a stack: [n_expert][rows, cols] */
    ML_GGUF_HEADS,   /* [n_head][rows / n_head, cols] */
} ml_gguf_stack;

typedef struct {
    char name[ML_GGUF_TENSOR_NAME_MAX];
    ml_gguf_stack stack;
    int64_t expert; /* of ML_GGUF_EXPERTS */
} ml_gguf_place;

/* Newer files may have an expert's gate and up projections as one: [n_expert][gate rows; up rows].  The name of that
 * tensor for the place of either, with *second for up; false for other places. */
bool ml_gguf_fused_place(const ml_gguf_place *place, char name[ML_GGUF_TENSOR_NAME_MAX], bool *second);
/* `name` as in model/model.h; false when files of `architecture` have no place for it. */
bool ml_gguf_place_of(const char *architecture, const char *name, ml_gguf_place *out);

#endif
