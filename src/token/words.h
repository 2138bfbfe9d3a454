/* Counting different pieces of text, for training. */
#ifndef ML_TOKEN_WORDS_H
#define ML_TOKEN_WORDS_H

#include "token/table.h"
#include "token/tokenizer.h"

typedef struct {
    ml_key key;
    int64_t count; /* 0: free slot */
    size_t at, n;  /* bytes in the blob */
} ml_word_slot;

/* Start zeroed.  Slots in use are those with a count. */
typedef struct {
    ml_word_slot *slots;
    size_t n, mask; /* mask + 1 slots; slots NULL: empty */
    ml_chars blob;
} ml_words;

void ml_words_free(ml_words *words);
/* Count n >= 1 bytes `times` more; `readable` bytes (>= n) may be read at p. */
ml_status ml_words_add(ml_words *words, const uint8_t *p, size_t n, size_t readable, int64_t times, ml_error *err);

#endif
