/* The merge loop of training. */
#ifndef ML_TOKEN_MERGE_TRAIN_H
#define ML_TOKEN_MERGE_TRAIN_H

#include "token/train.h"
#include "token/words.h"

/* Put pieces and merges into t, which holds the specials and the bytes, until it has config->vocab_size ids. */
ml_status ml_bpe_merge_words(const ml_bpe_train_config *config, const ml_words *words, ml_progress *progress,
                             ml_tokenizer *t, ml_error *err);

#endif
