/* The architectures of GGUF files that this program runs, and their keys; for reading and writing. */
#ifndef ML_FORMAT_GGUF_ARCH_H
#define ML_FORMAT_GGUF_ARCH_H

#include "model/config_fields.h"

/* Values of expert_gating_func. */
enum { ML_GGUF_GATING_SOFTMAX = 1, ML_GGUF_GATING_SIGMOID = 2 };

typedef struct {
    const char *name, *class_name; /* the Hugging Face class of the same models */
    bool mla, experts;
    int64_t rope_interleaved;
    int64_t scoring, norm_topk_prob; /* where no key says it */
    bool needs_correction_bias;      /* llama.cpp demands the tensor */
} ml_gguf_arch;

/* NULL when there is none of that name. */
const ml_gguf_arch *ml_gguf_arch_find(const char *name);
/* The names, with commas between. */
void ml_gguf_arch_list(char *out, size_t size);

/* A key (behind "<architecture>.") and the field of ml_config that has its value. */
typedef struct {
    const char *key, *field;
    bool optional;
} ml_gguf_key;

/* Each ends with a NULL key. */
extern const ml_gguf_key ml_gguf_common_keys[], ml_gguf_expert_keys[];
const ml_config_field *ml_gguf_key_field(const ml_gguf_key *k);

#endif
