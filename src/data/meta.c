#include "data/meta.h"

#include <string.h>

ml_status ml_meta_text(const json_t *object, const char *key, const char *where, char *out, size_t size, ml_error *err)
{
    const char *text;
    ML_TRY(ml_json_text(object, key, where, &text, err));
    size_t n = strlen(text);
    if (n >= size) {
        return ml_fail(err, ML_EFORMAT, "%s: %s: expected at most %zu bytes, found %zu", where, key, size - 1, n);
    }
    memcpy(out, text, n + 1);
    return ML_OK;
}

ml_status ml_meta_count(const json_t *object, const char *key, const char *where, int64_t *out, ml_error *err)
{
    ML_TRY(ml_json_int(object, key, where, out, err));
    if (*out >= 0 && *out < (int64_t)1 << 56) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: %s: expected a count, found %lld", where, key, (long long)*out);
}

ml_status ml_meta_read_head(const json_t *meta, const char *where, const ml_meta_head *out, ml_error *err)
{
    int64_t version;
    json_t *tokenizer;
    const char *dtype;
    ML_TRY(ml_json_int(meta, "version", where, &version, err));
    if (version != 1) {
        return ml_fail(err, ML_EFORMAT, "%s: version: expected 1, found %lld: build the folder again", where,
                       (long long)version);
    }
    ML_TRY(ml_meta_text(meta, "dataset", where, out->name, ML_META_NAME, err));
    ML_TRY(ml_meta_text(meta, "fingerprint", where, out->fingerprint, ML_SHA256_HEX, err));
    ML_TRY(ml_json_object(meta, "tokenizer", where, &tokenizer, err));
    ML_TRY(ml_meta_text(tokenizer, "fingerprint", where, out->tokenizer, ML_META_TOKENIZER, err));
    ML_TRY(ml_json_int(meta, "vocab_size", where, out->vocab_size, err));
    if (*out->vocab_size < 1 || *out->vocab_size > INT32_MAX) {
        return ml_fail(err, ML_EFORMAT, "%s: vocab_size: expected 1 to 2^31 - 1, found %lld", where,
                       (long long)*out->vocab_size);
    }
    ML_TRY(ml_json_text(meta, "dtype", where, &dtype, err));
    *out->id_bytes = strcmp(dtype, "uint16") == 0 ? 2 : strcmp(dtype, "uint32") == 0 ? 4 : 0;
    if (*out->id_bytes) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: dtype: expected uint16 or uint32, found \"%.40s\"", where, dtype);
}

ml_status ml_meta_check_tokenizer(const char *folder, const char *made_by, const char *in_use, ml_error *err)
{
    if (strcmp(made_by, in_use) == 0) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: the ids were made by tokenizer %.16s..., not by tokenizer %.16s...: build the data with the "
                   "tokenizer in use",
                   folder, made_by, in_use);
}

ml_status ml_meta_check_hash(const char *path, const char *expected, ml_error *err)
{
    char found[ML_SHA256_HEX];
    ML_TRY(ml_sha256_file(path, found, err));
    if (strcmp(found, expected) == 0) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: expected SHA-256 %s, found %s: the file has changed since it was built", path,
                   expected, found);
}
