#include "cli/data_sources.h"

#include "base/log.h"

#include <stdio.h>

ml_status ml_cli_source_bytes(const ml_source_list *list, double *n_bytes, ml_error *err)
{
    for (size_t i = 0; i < list->n; i++) {
        for (size_t k = 0; k < list->source[i].n_file; k++) {
            ml_map map;
            ML_TRY(ml_map_open(list->source[i].file[k], &map, err));
            *n_bytes += (double)map.size;
            ml_map_close(&map);
        }
    }
    return ML_OK;
}

static long long number(const json_t *source, const char *key, const char *split)
{
    return json_integer_value(json_object_get(json_object_get(source, key), split));
}

static void print_rejects(const json_t *source)
{
    const char *reason, *first = json_string_value(json_object_get(source, "first_rejected"));
    json_t *n, *rejected = json_object_get(source, "rejected");
    json_object_foreach(rejected, reason, n)
    {
        if (json_integer_value(n) > 0)
            ml_log_warn("%s: %lld of %lld records left out: %s", json_string_value(json_object_get(source, "name")),
                        (long long)json_integer_value(n),
                        (long long)json_integer_value(json_object_get(source, "records")), reason);
    }
    if (first) ml_log_warn("the first defective record: %s", first);
}

void ml_cli_print_sources(const json_t *sources)
{
    size_t i;
    json_t *source;
    if (!sources) return;
    json_array_foreach((json_t *)(uintptr_t)sources, i, source) print_rejects(source);
    bool rows = json_object_get(json_array_get(sources, 0), "rows") != NULL;
    const char *what = rows ? "rows" : "documents";
    printf("%-28s %7s %11s %14s %14s %11s %14s\n", "source", "share", what, "tokens", "of quota", "val", "val tokens");
    json_array_foreach((json_t *)(uintptr_t)sources, i, source)
    {
        printf("%-28s %7.4f %11lld %14lld %14lld %11lld %14lld\n", json_string_value(json_object_get(source, "name")),
               json_number_value(json_object_get(source, "share")), number(source, what, "train"),
               number(source, "tokens", "train"), number(source, "quota", "train"), number(source, what, "val"),
               number(source, "tokens", "val"));
    }
}
