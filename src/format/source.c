#include "format/source.h"

#include "base/file.h"
#include "base/text.h"
#include "format/gguf_source.h"
#include "format/hf.h"
#include "format/pt_source.h"

/* By the first bytes: mapping all of a file that is to be mapped again would take its address space twice. */
ml_status ml_weight_source_find_kind(const char *path, ml_source_kind *kind, ml_error *err)
{
    uint8_t head[32];
    size_t n;
    *kind = ML_SOURCE_HF;
    if (ml_path_is_dir(path)) return ML_OK;
    ML_TRY(ml_file_read_head(path, head, sizeof head, &n, err));
    *kind = ml_gguf_is(head, n) ? ML_SOURCE_GGUF : ml_pt_is(head, n) ? ML_SOURCE_PT : ML_SOURCE_HF;
    return ML_OK;
}

ml_source_kind ml_weight_source_kind(const char *path)
{
    ml_source_kind kind;
    ml_error ignored;
    (void)ml_weight_source_find_kind(path, &kind, &ignored);
    return kind;
}

ml_status ml_weight_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    *out = NULL;
    if (!ml_path_exists(path)) return ml_fail(err, ML_EIO, "%s: there is no such file or folder", path);
    ml_source_kind kind;
    ML_TRY(ml_weight_source_find_kind(path, &kind, err));
    switch (kind) {
    case ML_SOURCE_GGUF: return ml_gguf_source_open(path, config, out, err);
    case ML_SOURCE_PT: return ml_pt_source_open(path, config, out, err);
    case ML_SOURCE_HF: break;
    }
    if (!ml_path_is_dir(path) && !ml_text_ends_with(path, ".safetensors") && !ml_text_ends_with(path, ".json")) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: neither a GGUF or .safetensors file nor a PyTorch checkpoint: expected one of these, or a "
                       "model folder (with config.json); moonlight inspect says what a file is",
                       path);
    }
    return ml_hf_source_open(path, config, out, err);
}
