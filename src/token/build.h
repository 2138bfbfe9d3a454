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
/* Begin each text with the BOS token, end it with the EOS token, where the tokenizer has one; what
 * ml_tokenizer_put_around put is forgotten. */
void ml_tokenizer_set_around(ml_tokenizer *t, bool bos, bool eos);
/* One more token before (`behind`: behind) each text. */
ml_status ml_tokenizer_put_around(ml_tokenizer *t, bool behind, int32_t id, ml_error *err);
/* One more token that ends an answer, as EOS does; nothing when it was put already. */
ml_status ml_tokenizer_put_end(ml_tokenizer *t, int32_t id, ml_error *err);
/* Texts are brought into Unicode's Normalization Form C first. */
void ml_tokenizer_set_nfc(ml_tokenizer *t, bool nfc);

/* Where SentencePiece puts a space of its own; decoding takes it away. */
typedef enum {
    ML_SPACE_NEVER,
    ML_SPACE_EACH,        /* before each text and behind each added token in it */
    ML_SPACE_EACH_UNLESS, /* the same, where there is none yet */
    ML_SPACE_FIRST_UNLESS /* before the text alone, where there is none yet */
} ml_space_rule;

/* SentencePiece BPE: a text is cut into characters, and what is no piece falls back to the tokens of its bytes, when
 * all 256 have one.  Pieces are put with spaces where the model writes U+2581, which in a text is a space, too.
 * Neighbours are joined by merges, if any are put; otherwise pieces have scores, and the neighbours whose union is the
 * piece of highest score are joined first, the leftmost of equals. */
void ml_tokenizer_use_pieces(ml_tokenizer *t, ml_space_rule space);
/* Of a piece that was put; ML_EFORMAT for a NaN. */
ml_status ml_tokenizer_set_score(ml_tokenizer *t, int32_t id, float score, ml_error *err);
/* The token of a byte that no piece of its character covers ("<0x0A>"). */
ml_status ml_tokenizer_put_byte(ml_tokenizer *t, int64_t id, uint8_t byte, ml_error *err);
ml_status ml_tokenizer_set_chat_template(ml_tokenizer *t, const char *text, ml_error *err);
/* The stored name of a chat format (token/chat.h). */
ml_status ml_tokenizer_set_chat_format(ml_tokenizer *t, const char *name, ml_error *err);
/* Build the tables for encoding.  A tokenizer without split patterns takes each text as one piece. */
ml_status ml_tokenizer_finish(ml_tokenizer *t, ml_error *err);

#endif
