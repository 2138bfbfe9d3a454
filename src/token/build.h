/* Making a tokenizer from its parts: for the readers of this folder, the trainer, and formats (GGUF) that carry a
 * vocabulary.  Make, put pieces, merges and splits in any order that has a merge behind its pieces, then finish; before
 * that nothing else may be called but ml_tokenizer_free. */
#ifndef ML_TOKEN_BUILD_H
#define ML_TOKEN_BUILD_H

#include "token/tokenizer.h"

enum {
    ML_PIECE_ADDED = 1,   /* an added token: its bytes are its text */
    ML_PIECE_SPECIAL = 2, /* and left out by skip_special */
    ML_PIECE_LITERAL = 4, /* an entry no text can become */
    ML_TOKENIZER_MAX_VOCAB = 1 << 24
};

typedef enum { ML_ROLE_BOS, ML_ROLE_EOS, ML_ROLE_UNK, ML_ROLE_PAD, ML_N_ROLES } ml_token_role;

/* `kind` is a literal. */
ml_status ml_tokenizer_make(const char *kind, ml_tokenizer **out, ml_error *err);
/* ML_EFORMAT for an id that is taken, negative or not below ML_TOKENIZER_MAX_VOCAB, and for empty pieces.  An id that
 * holds the same bytes may be put again to give it more flags. */
ml_status ml_tokenizer_put_piece(ml_tokenizer *t, int64_t id, const void *bytes, size_t n_bytes, int flags,
                                 ml_error *err);
/* The next merge by rank.  ML_EFORMAT unless the bytes of left and right make those of result, and for a pair that was
 * put before. */
ml_status ml_tokenizer_put_merge(ml_tokenizer *t, int32_t left, int32_t right, int32_t result, ml_error *err);
/* Find the merges of a vocabulary whose ids are ranks (tiktoken): each token is made of the two parts that merging its
 * bytes by lower ranks ends with.  Also turns whole pieces on. */
ml_status ml_tokenizer_derive_merges(ml_tokenizer *t, ml_error *err);
/* The next stage of the split: a name or a regex. */
ml_status ml_tokenizer_put_split(ml_tokenizer *t, const char *pattern, ml_error *err);
/* A piece of text that is itself a token becomes that token, whatever its merges give ("ignore_merges"). */
void ml_tokenizer_set_whole_piece(ml_tokenizer *t, bool whole_piece);
/* Unknown bytes in a row become one unknown token. */
void ml_tokenizer_set_fuse_unk(ml_tokenizer *t, bool fuse);
void ml_tokenizer_set_role(ml_tokenizer *t, ml_token_role role, int32_t id);
/* The model expects the BOS token before each text. */
void ml_tokenizer_set_add_bos(ml_tokenizer *t, bool add);
/* SentencePiece BPE instead of merges: pieces have scores, and the neighbours whose union is the piece of highest score
 * are joined first, the leftmost of equals.  Pieces are put with spaces where the model writes U+2581.  With
 * `space_prefix` a space is put before each text and behind each added token, and decoding takes it away. */
void ml_tokenizer_use_scores(ml_tokenizer *t, bool space_prefix);
/* Of a piece that was put; ML_EFORMAT for a NaN. */
ml_status ml_tokenizer_set_score(ml_tokenizer *t, int32_t id, float score, ml_error *err);
/* The token of a byte that no piece of its character covers ("<0x0A>"). */
ml_status ml_tokenizer_put_byte(ml_tokenizer *t, int64_t id, uint8_t byte, ml_error *err);
ml_status ml_tokenizer_set_chat_template(ml_tokenizer *t, const char *text, ml_error *err);
/* Build the tables for encoding.  A tokenizer without split patterns takes each text as one piece. */
ml_status ml_tokenizer_finish(ml_tokenizer *t, ml_error *err);

#endif
