#include "base/bytes.h"

ml_status ml_bytes_take(ml_bytes *b, size_t n, const uint8_t **out, ml_error *err)
{
    if (n > b->size - b->at) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: expected %zu more bytes, found %zu: the file is cut short or damaged", b->at, n,
                       b->size - b->at);
    }
    *out = b->data + b->at;
    b->at += n;
    return ML_OK;
}

ml_status ml_bytes_u8(ml_bytes *b, uint8_t *out, ml_error *err)
{
    const uint8_t *p;
    ML_TRY(ml_bytes_take(b, 1, &p, err));
    *out = p[0];
    return ML_OK;
}

ml_status ml_bytes_u32(ml_bytes *b, uint32_t *out, ml_error *err)
{
    const uint8_t *p;
    ML_TRY(ml_bytes_take(b, 4, &p, err));
    *out = ml_load_u32(p);
    return ML_OK;
}

ml_status ml_bytes_u64(ml_bytes *b, uint64_t *out, ml_error *err)
{
    const uint8_t *p;
    ML_TRY(ml_bytes_take(b, 8, &p, err));
    *out = ml_load_u64(p);
    return ML_OK;
}
