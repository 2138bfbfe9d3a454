/* Which ids end what a model writes. */
#ifndef ML_FORMAT_ENDS_H
#define ML_FORMAT_ENDS_H

#include "model/config.h"
#include "token/tokenizer.h"

/* Append, each once: config.json's eos_token_id and generation_config.json's, both a number or a list of them, and the
 * tokenizer's EOS and other ends.  Either file may lack the key or be missing.  ML_EFORMAT for what is
 * no id of the model's vocabulary. */
ml_status ml_model_ends(const char *folder, const ml_config *config, const ml_tokenizer *t, ml_ids *out, ml_error *err);
/* Append an id unless it is there. */
ml_status ml_ends_add(ml_ids *out, int32_t id, ml_error *err);

#endif
