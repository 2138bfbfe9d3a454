#include "format/source.h"

#include "base/file.h"
#include "format/gguf_source.h"
#include "format/hf.h"

bool ml_weight_source_is_gguf(const char *path)
{
    ml_map map;
    ml_error ignored;
    if (ml_path_is_dir(path) || ml_map_open(path, &map, &ignored) != ML_OK) return false;
    bool is = ml_gguf_is(map.data, map.size);
    ml_map_close(&map);
    return is;
}

ml_status ml_weight_source_open(const char *path, ml_config *config, ml_weight_source **out, ml_error *err)
{
    return ml_weight_source_is_gguf(path) ? ml_gguf_source_open(path, config, out, err)
                                          : ml_hf_source_open(path, config, out, err);
}
