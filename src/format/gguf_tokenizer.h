/* The tokenizer inside a GGUF file.
 *
 * `tokenizer.ggml.model` "gpt2" is byte-level BPE: tokens in mapped characters, merges as "left right", and the split
 * pattern by a name, `tokenizer.ggml.pre`.  "llama" is SentencePiece BPE: tokens with U+2581 for spaces, their scores,
 * and a token for each byte.  `tokenizer.ggml.token_type` says which tokens are controls, user-defined, unused, bytes.
 */
#ifndef ML_FORMAT_GGUF_TOKENIZER_H
#define ML_FORMAT_GGUF_TOKENIZER_H

#include "format/gguf.h"
#include "token/tokenizer.h"

/* The largest vocabulary of a published model has 262,144. */
enum { ML_GGUF_MAX_VOCAB = 1 << 19 };

/* Of an open file, which may be closed afterwards.  Kind "gguf" (gpt2) or "sentencepiece" (llama).  ML_EFORMAT for
 * keys that are missing or damaged; ML_EINVAL naming a model or pre-tokenizer that is not known. */
ml_status ml_gguf_tokenizer(const ml_gguf *g, ml_tokenizer **out, ml_error *err);
/* The same from a path. */
ml_status ml_gguf_tokenizer_open(const char *path, ml_tokenizer **out, ml_error *err);

/* Set the keys of a tokenizer, chat template included, for a model whose embedding has n_vocab rows (at least the
 * tokenizer's; rows without a token are named "[PAD<id>]").  ML_EINVAL when its split pattern has no name there. */
ml_status ml_gguf_put_tokenizer(ml_gguf_writer *w, const ml_tokenizer *t, int64_t n_vocab, ml_error *err);

#endif
