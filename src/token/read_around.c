/* What stands around the model in tokenizer.json: the normalizer before it, the post_processor behind it. */
#include "token/read.h"

#include <string.h>

#define WIDE_SPACE "\xE2\x96\x81" /* U+2581 */

static ml_status read_step(const json_t *node, ml_normalizer *out, ml_error *err)
{
    const char *type = ml_read_type(node);
    /* The order matters to none of these but NFC, which would have to come first. */
    if (!strcmp(type, "NFC") && !out->prepend && !out->wide_space) {
        out->nfc = true;
        return ML_OK;
    }
    if (!strcmp(type, "Prepend")) {
        const char *text = json_string_value(json_object_get(node, "prepend"));
        if (!text || strcmp(text, WIDE_SPACE) != 0) {
            return ml_read_refuse("normalizer Prepend", "U+2581", text ? text : "none", err);
        }
        out->prepend = true;
        return ML_OK;
    }
    if (!strcmp(type, "Replace")) {
        const char *from = json_string_value(json_object_get(json_object_get(node, "pattern"), "String"));
        const char *to = json_string_value(json_object_get(node, "content"));
        if (!from || strcmp(from, " ") != 0 || !to || strcmp(to, WIDE_SPACE) != 0) {
            return ml_read_refuse("normalizer Replace", "a space by U+2581", "something else", err);
        }
        out->wide_space = true;
        return ML_OK;
    }
    return ml_read_refuse("normalizer", "null, NFC, or a space by U+2581", type, err);
}

ml_status ml_read_normalizer(const json_t *root, ml_normalizer *out, ml_error *err)
{
    const json_t *node = json_object_get(root, "normalizer");
    *out = (ml_normalizer){ 0 };
    if (!node || json_is_null(node)) return ML_OK;
    if (strcmp(ml_read_type(node), "Sequence") != 0) return read_step(node, out, err);
    json_t *list;
    ML_TRY(ml_json_array(node, "normalizers", "normalizer", &list, err));
    for (size_t i = 0; i < json_array_size(list); i++) ML_TRY(read_step(json_array_get(list, i), out, err));
    return ML_OK;
}

/* One entry of a template: the text, or a token by the name under which special_tokens has its ids. */
static ml_status read_entry(ml_tokenizer *t, const json_t *entry, const json_t *special, bool *behind, ml_error *err)
{
    if (json_is_object(json_object_get(entry, "Sequence"))) {
        if (*behind) return ml_read_refuse("post_processor single", "the text once", "twice", err);
        *behind = true;
        return ML_OK;
    }
    const char *name = json_string_value(json_object_get(json_object_get(entry, "SpecialToken"), "id"));
    const json_t *ids = name ? json_object_get(json_object_get(special, name), "ids") : NULL;
    if (!json_is_array(ids)) {
        return ml_fail(err, ML_EFORMAT,
                       "key post_processor: an entry of \"single\" is neither the text nor a token of "
                       "\"special_tokens\"");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= ML_TOKENIZER_MAX_VOCAB) {
            return ml_fail(err, ML_EFORMAT, "key post_processor.special_tokens[\"%.100s\"].ids: expected token ids",
                           name);
        }
        ML_TRY(ml_tokenizer_put_around(t, *behind, (int32_t)value, err));
    }
    return ML_OK;
}

static ml_status read_processor(ml_tokenizer *t, const json_t *node, ml_error *err)
{
    const char *type = ml_read_type(node);
    if (!strcmp(type, "ByteLevel")) return ML_OK; // concerns offsets alone
    if (strcmp(type, "TemplateProcessing") != 0) {
        return ml_read_refuse("post_processor", "TemplateProcessing, ByteLevel or a Sequence of them", type, err);
    }
    json_t *single, *special;
    bool behind = false;
    ML_TRY(ml_json_array(node, "single", "post_processor", &single, err));
    ML_TRY(ml_json_object(node, "special_tokens", "post_processor", &special, err));
    for (size_t i = 0; i < json_array_size(single); i++) {
        ML_TRY(read_entry(t, json_array_get(single, i), special, &behind, err));
    }
    return behind ? ML_OK : ml_read_refuse("post_processor single", "the text once", "no text", err);
}

ml_status ml_read_post_processor(ml_tokenizer *t, const json_t *root, ml_error *err)
{
    const json_t *node = json_object_get(root, "post_processor");
    if (!node || json_is_null(node)) return ML_OK;
    if (strcmp(ml_read_type(node), "Sequence") != 0) return read_processor(t, node, err);
    json_t *list;
    ML_TRY(ml_json_array(node, "processors", "post_processor", &list, err));
    for (size_t i = 0; i < json_array_size(list); i++) ML_TRY(read_processor(t, json_array_get(list, i), err));
    return ML_OK;
}
