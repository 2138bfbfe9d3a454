/* What a tokenizer is made of; for the files of this folder. */
#ifndef ML_TOKEN_INTERNAL_H
#define ML_TOKEN_INTERNAL_H

#include "base/hash.h"
#include "token/build.h"
#include "token/split.h"
#include "token/table.h"

enum { PIECE_PRESENT = 128 }; /* beside ML_PIECE_*; an id without it is a hole */

typedef struct {
    uint32_t at, n_bytes; /* in the blob */
    uint32_t flags;
    float score; /* SentencePiece only */
} ml_piece;

typedef struct {
    int32_t left, right, result;
} ml_merge;

struct ml_tokenizer {
    const char *kind;
    ml_chars blob; /* bytes of all pieces */
    ml_piece *pieces;
    size_t n_pieces, pieces_capacity; /* highest id + 1 */
    ml_merge *merges;                 /* by rank */
    size_t n_merges, merges_capacity;
    ml_pair_table pairs;
    uint64_t *pair_filter;    /* a bit for each hash of a pair in the table; NULL before finish */
    size_t pair_filter_mask;  /* bits - 1 */
    uint32_t *byte_pair_rank; /* [256 * 256] */
    int32_t *char_id;         /* [65536] of characters of two and three bytes, where merging may begin with them; -1 */
    ml_piece_table whole;     /* pieces of text that are one token at once */
    int32_t byte_id[256];     /* -1: none */
    ml_pattern *split;        /* NULL: text is one piece */
    int32_t role[ML_N_ROLES];
    bool whole_piece, fuse_unk, nfc;
    bool sentencepiece;    /* see ml_tokenizer_use_pieces */
    bool scored;           /* its pieces have scores */
    ml_space_rule space;   /* of SentencePiece */
    size_t longest;        /* bytes of the longest piece that text can become */
    bool add_bos, add_eos; /* added to these by finish: */
    ml_ids prefix, suffix; /* put before and behind each text */
    ml_ids ends;           /* ids that end an answer, besides EOS */
    char *chat_template, *chat_format;
    /* Added tokens: by text, the bytes they can begin with, their lengths in falling order. */
    ml_piece_table added;
    bool added_first[256];
    bool added_has_line_feed;
    size_t *added_lengths;
    size_t n_added_lengths, added_lengths_capacity;
    char fingerprint[ML_SHA256_HEX];
};

static inline bool ml_tokenizer_has(const ml_tokenizer *t, int64_t id)
{
    return id >= 0 && (uint64_t)id < t->n_pieces && (t->pieces[id].flags & PIECE_PRESENT);
}

static inline const uint8_t *ml_piece_bytes(const ml_tokenizer *t, int32_t id)
{
    return (const uint8_t *)t->blob.data + t->pieces[id].at;
}

/* Id of n bytes in one of the tables, -1 if none. */
int32_t ml_tokenizer_look_up(const ml_tokenizer *t, const ml_piece_table *table, const uint8_t *p, size_t n,
                             size_t readable);

/* The first added token in p[*at..n), the longest at its place: place, length and id; false when there is none. */
bool ml_tokenizer_find_added(const ml_tokenizer *t, const uint8_t *p, size_t n, size_t *at, size_t *length,
                             int32_t *id);

/* Memory for merging one piece; start zeroed. */
typedef struct {
    int32_t *id;
    uint32_t *rank, *next, *previous;
    size_t capacity;
    uint64_t *heap;
    size_t n_heap, heap_capacity;
} ml_merge_scratch;

void ml_merge_scratch_free(ml_merge_scratch *s);
/* Merge n >= 1 bytes, all of which have a token, to scratch->id[0 .. *n_ids).  Once the tokenizer is finished they must
 * be UTF-8. */
ml_status ml_merge_bytes(const ml_tokenizer *t, ml_merge_scratch *s, const uint8_t *p, size_t n, size_t *n_ids,
                         ml_error *err);

/* Memory for joining the pieces of SentencePiece; start zeroed. */
typedef struct {
    struct ml_join_symbol *symbols;
    size_t capacity;
    struct ml_join_pair *heap;
    size_t n_heap, heap_capacity;
    ml_chars text;
} ml_join_scratch;

void ml_join_scratch_free(ml_join_scratch *s);
/* Append the ids of n bytes, with a space before them if `space`. */
ml_status ml_join_encode(const ml_tokenizer *t, ml_join_scratch *s, const uint8_t *p, size_t n, bool space, ml_ids *out,
                         ml_error *err);

/* Append n bytes in Normalization Form C; bytes that are not UTF-8 stay as they are. */
ml_status ml_nfc_append(const uint8_t *p, size_t n, ml_chars *out, ml_error *err);
/* True when the n bytes are surely in that form already. */
bool ml_nfc_is_normal(const uint8_t *p, size_t n);

/* Of a SentencePiece tokenizer with scores, whose tables are built: the merges by rank (ml_free) that join the same
 * pieces.  ML_EINVAL, naming a piece, when merges cannot say what the scores say. */
ml_status ml_pieces_to_merges(const ml_tokenizer *t, ml_merge **merges, size_t *n, ml_error *err);
/* The way back: give pieces the scores that join what the merges join, and set t->scored; leave it unset when there are
 * none. */
ml_status ml_pieces_find_scores(ml_tokenizer *t, ml_error *err);

#endif
