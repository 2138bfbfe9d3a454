/* Training a byte-level BPE vocabulary.
 *
 * Ids: the specials in the order given, the 256 bytes in GPT-2's order, then one per merge.  Each step merges the pair
 * of tokens that is most frequent inside pieces.  The result depends on the documents alone, not on their order nor on
 * threads, and equals that of the Hugging Face trainer (full byte alphabet, min_frequency 0).  Where a special's text
 * stands in a document, the document is cut and the text is not counted. */
#ifndef ML_TOKEN_TRAIN_H
#define ML_TOKEN_TRAIN_H

#include "base/log.h"
#include "token/tokenizer.h"

typedef enum {
    ML_BPE_TIES_FIRST, /* of equally frequent pairs the one with the lower ids (Hugging Face) */
    ML_BPE_TIES_LAST,  /* the one whose bytes sort last, left token before right */
} ml_bpe_ties;

typedef struct {
    int32_t vocab_size;         /* specials, bytes and merges together */
    const char *pattern;        /* split pattern: a name or a regex (token/split.h) */
    const char *const *special; /* [UNK] [PAD] [BOS] [EOS] and <|endoftext|> also get these roles; BOS begins texts */
    size_t n_special;
    ml_bpe_ties ties;
    bool allow_fewer; /* a corpus with too few pairs gives a smaller vocabulary instead of ML_EINVAL */
} ml_bpe_train_config;

typedef struct ml_bpe_trainer ml_bpe_trainer;

/* The config may go away after this call. */
ml_status ml_bpe_trainer_make(const ml_bpe_train_config *config, ml_bpe_trainer **out, ml_error *err);
void ml_bpe_trainer_free(ml_bpe_trainer *trainer);
/* Count the pieces of some documents, on all threads; call any number of times.  The documents may go away after. */
ml_status ml_bpe_trainer_add(ml_bpe_trainer *trainer, const ml_text *docs, size_t n_docs, ml_error *err);
/* Different pieces counted so far. */
size_t ml_bpe_trainer_n_words(const ml_bpe_trainer *trainer);
/* Merge.  `progress` (may be NULL) counts tokens of vocab_size.  ML_ECANCEL when the user stops it. */
ml_status ml_bpe_trainer_finish(ml_bpe_trainer *trainer, ml_progress *progress, ml_tokenizer **out, ml_error *err);

/* make + add + finish */
ml_status ml_bpe_train(const ml_bpe_train_config *config, const ml_text *docs, size_t n_docs, ml_progress *progress,
                       ml_tokenizer **out, ml_error *err);

#endif
