/* A tokenizer whose ids need no library to be known: byte b is id b + 2, [BOS] is 0 and begins texts, [EOS] is 1. */
#ifndef ML_TESTS_BYTE_TOKENIZER_H
#define ML_TESTS_BYTE_TOKENIZER_H

#include "token/tokenizer.h"

/* Write tokenizer.json and tokenizer_config.json into `folder` and open them.  Without specials, ids 0 and 1 belong to
 * tokens that no text gives.  far_id > 257 adds a token "[FAR]" with that id, making the vocabulary so large. */
ml_tokenizer *test_byte_tokenizer(const char *folder, bool specials, int far_id);

#endif
