#include "format/source.h"

#include "base/file.h"
#include "base/text.h"
#include "format/gguf_source.h"
#include "format/hf.h"
#include "format/pt_source.h"

ml_source_kind ml_weight_source_kind(const char *path)
{
    ml_map map;
    ml_error ignored;
    if (ml_path_is_dir(path) || ml_map_open(path, &map, &ignored) != ML_OK) return ML_SOURCE_HF;
    ml_source_kind kind = ml_gguf_is(map.data, map.size) ? ML_SOURCE_GGUF
                          : ml_pt_is(map.data, map.size) ? ML_SOURCE_PT
                                                         : ML_SOURCE_HF;
    ml_map_close(&map);
    return kind;
}

ml_status ml_weight_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    *out = NULL;
    if (!ml_path_exists(path)) return ml_fail(err, ML_EIO, "%s: there is no such file or folder", path);
    switch (ml_weight_source_kind(path)) {
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
