/* llama2.c's tokenizer.bin: i32 length of the longest piece, then for each token f32 score, i32 length, bytes, little
 * endian.  A SentencePiece vocabulary with spaces as they are: ids 0, 1, 2 are unknown, begin and end of text, 3 to 258
 * the bytes. */
#include "token/read.h"

#include "base/bytes.h"
#include "base/file.h"

#include <string.h>

enum { UNK, BOS, EOS, FIRST_BYTE, FIRST_PIECE = FIRST_BYTE + 256, MAX_VOCAB = 1 << 19 };

static ml_status read_token(ml_tokenizer *t, int32_t id, ml_bytes *b, ml_error *err)
{
    static const char *const special[] = { "<unk>", "<s>", "</s>" };
    uint32_t bits, n;
    float score;
    const uint8_t *text;
    ML_TRY(ml_bytes_u32(b, &bits, err));
    ML_TRY(ml_bytes_u32(b, &n, err));
    ML_TRY(ml_bytes_take(b, n, &text, err));
    memcpy(&score, &bits, sizeof score);
    if (id < FIRST_BYTE) {
        const char *name = special[id]; /* the file has line feeds around them */
        return ml_tokenizer_put_piece(t, id, name, strlen(name), ML_PIECE_ADDED | ML_PIECE_SPECIAL, err);
    }
    if (id < FIRST_PIECE) return ml_tokenizer_put_byte(t, id, (uint8_t)(id - FIRST_BYTE), err);
    ML_TRY(ml_tokenizer_put_piece(t, id, text, n, 0, err));
    return ml_tokenizer_set_score(t, id, score, err);
}

static ml_status fill(ml_tokenizer *t, const ml_map *map, ml_error *err)
{
    ml_bytes b = { map->data, map->size, 0 };
    uint32_t longest;
    int32_t id = 0;
    ML_TRY(ml_bytes_u32(&b, &longest, err));
    ml_tokenizer_use_pieces(t, ML_SPACE_EACH);
    ml_tokenizer_set_fuse_unk(t, true);
    ml_tokenizer_set_around(t, true, false);
    for (; b.at < b.size; id++) {
        size_t at = b.at;
        if (id == MAX_VOCAB) return ml_fail(err, ML_EFORMAT, "expected at most %d tokens, found more", MAX_VOCAB);
        if (read_token(t, id, &b, err) != ML_OK) return ml_fail_prefix(err, "token %d, offset %zu", id, at);
    }
    if (id <= FIRST_PIECE) return ml_fail(err, ML_EFORMAT, "expected more than %d tokens, found %d", FIRST_PIECE, id);
    ml_tokenizer_set_role(t, ML_ROLE_UNK, UNK);
    ml_tokenizer_set_role(t, ML_ROLE_BOS, BOS);
    ml_tokenizer_set_role(t, ML_ROLE_EOS, EOS);
    return ML_OK;
}

ml_status ml_read_llama2(const char *path, ml_tokenizer **out, ml_error *err)
{
    ml_map map;
    ML_TRY(ml_map_open(path, &map, err));
    ml_tokenizer *t = NULL;
    ml_status status = ml_tokenizer_make("llama2.c", &t, err);
    if (status == ML_OK) {
        status = fill(t, &map, err);
        if (status != ML_OK) ml_fail_prefix(err, "%s", path);
    }
    ml_map_close(&map);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}
