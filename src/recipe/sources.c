#include "recipe/sources.h"

ml_status ml_recipe_sources_open(const ml_options *o, const ml_listener *listener, ml_source_list *out, ml_error *err)
{
    const char *const *item, *const *text;
    char missing[ML_PATH_MAX];
    bool found;
    size_t n = ml_options_list(o, "data.source", &item);
    *out = (ml_source_list){ 0 };
    if (n == 0 || ml_options_list(o, "data.text", &text) > 0) return ML_OK;
    ML_TRY(ml_source_list_find(item, n, &found, missing, err));
    if (found) return ml_source_list_open(item, n, out, err);
    ml_listener_warn(
        listener,
        "data.source %s is not there (`moonlight data fetch` gets data sets): built-in data take the place "
        "of all %zu sources",
        missing, n);
    return ML_OK;
}

static long long number(const json_t *source, const char *key, const char *split)
{
    return json_integer_value(json_object_get(json_object_get(source, key), split));
}

void ml_recipe_sources_say(const json_t *sources, const ml_listener *listener)
{
    size_t i;
    json_t *source, *n;
    const char *reason;
    json_array_foreach((json_t *)(uintptr_t)sources, i, source)
    {
        const char *name = json_string_value(json_object_get(source, "name"));
        const char *what = json_object_get(source, "rows") ? "rows" : "documents";
        ml_listener_say(listener, "%s: share %.4g, %lld tokens in %lld %s for training, %lld for validation", name,
                        json_number_value(json_object_get(source, "share")), number(source, "tokens", "train"),
                        number(source, what, "train"), what, number(source, "tokens", "val"));
        json_object_foreach(json_object_get(source, "rejected"), reason, n)
        {
            if (json_integer_value(n) == 0) continue;
            ml_listener_warn(listener, "%s: %lld of %lld records left out: %s", name, (long long)json_integer_value(n),
                             (long long)json_integer_value(json_object_get(source, "records")), reason);
        }
    }
}
