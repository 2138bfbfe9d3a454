#include "format/open_tokenizer.h"

#include "base/file.h"
#include "format/gguf_tokenizer.h"

static ml_status is_gguf(const char *path, bool *yes, ml_error *err)
{
    *yes = false;
    if (ml_path_is_dir(path) || !ml_path_exists(path)) return ML_OK;
    uint8_t head[4];
    size_t n;
    ML_TRY(ml_file_read_head(path, head, sizeof head, &n, err));
    *yes = ml_gguf_is(head, n);
    return ML_OK;
}

ml_status ml_tokenizer_open_any(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err)
{
    bool gguf;
    ML_TRY(is_gguf(path, &gguf, err));
    if (!gguf) return ml_tokenizer_open_with(path, extra, out, err);
    if (extra->pattern || extra->n_added) {
        return ml_fail(err, ML_EINVAL, "%s: a GGUF file holds its split pattern and all its tokens: leave --%s out",
                       path, extra->pattern ? "pattern" : "added");
    }
    return ml_gguf_tokenizer_open(path, out, err);
}

ml_status ml_tokenizer_open(const char *path, ml_tokenizer **out, ml_error *err)
{
    return ml_tokenizer_open_any(path, &(ml_tokenizer_extra){ 0 }, out, err);
}
