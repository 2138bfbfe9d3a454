#include "format/open_tokenizer.h"

#include "base/file.h"
#include "format/gguf_tokenizer.h"
#include "token/chat.h"

#include <string.h>

ml_status ml_tokenizer_open_any(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err)
{
    bool gguf = false;
    if (!ml_path_is_dir(path) && ml_path_exists(path)) ML_TRY(ml_gguf_is_file(path, &gguf, err));
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

static const char *const moe_marks[] = { "<|system|>", "<|user|>", "<|assistant|>" };
enum { N_MOE_MARK = sizeof moe_marks / sizeof *moe_marks };

/* GPT-2's own, of a model that was taught more ids than it has. */
static bool lacks_moe_marks(const ml_tokenizer *t, const ml_config *config)
{
    int32_t n = ml_tokenizer_vocab_size(t);
    bool talks = !strcmp(ml_chat_words[config->chat_format], "moonlight-moe");
    if (!talks || !strcmp(ml_tokenizer_kind(t), "gguf")) return false;
    for (int i = 0; i < N_MOE_MARK; i++) {
        if (ml_tokenizer_find(t, moe_marks[i]) >= 0) return false;
    }
    return ml_tokenizer_find(t, "<|endoftext|>") == n - 1 && n + N_MOE_MARK <= config->vocab_size;
}

ml_status ml_tokenizer_open_for(const char *path, const ml_config *config, ml_tokenizer **out, ml_error *err)
{
    const ml_tokenizer_extra marks = { .added = moe_marks, .n_added = N_MOE_MARK };
    ML_TRY(ml_tokenizer_open(path, out, err));
    if (!lacks_moe_marks(*out, config)) return ML_OK;
    ml_tokenizer_free(*out);
    *out = NULL;
    return ml_tokenizer_open_any(path, &marks, out, err);
}
