#include "serve/params.h"

#include "base/alloc.h"
#include "base/nearest.h"
#include "serve/limits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef struct {
    ml_web *h;
    ml_params *p;
    const char *key;
    int where;
} reader;

typedef ml_status (*read_fn)(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err);

static ml_status refuse(const reader *r, ml_error *err, const char *expected)
{
    return ml_web_refuse(r->h, err, 400, r->key, "%s: expected %s", r->key, expected);
}

/* ---- kinds of values ---- */

static ml_status read_real(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= low && x <= high)) {
        return ml_web_refuse(r->h, err, 400, r->key, "%s: expected a number from %g to %g", r->key, low, high);
    }
    *(double *)((char *)r->p + offset) = x;
    return ML_OK;
}

static ml_status read_int(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    json_int_t x = json_integer_value(v);
    if (!json_is_integer(v) || (double)x < low || (double)x > high) {
        return ml_web_refuse(r->h, err, 400, r->key, "%s: expected a whole number from %.0f to %.0f", r->key, low,
                             high);
    }
    *(int64_t *)((char *)r->p + offset) = x;
    return ML_OK;
}

static ml_status read_flag(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)low;
    (void)high;
    if (!json_is_boolean(v)) return refuse(r, err, "true or false");
    *(bool *)((char *)r->p + offset) = json_is_true(v);
    return ML_OK;
}

static ml_status read_text(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)low;
    (void)high;
    if (!json_is_string(v)) return refuse(r, err, "a text");
    *(const char **)((char *)r->p + offset) = json_string_value(v);
    return ML_OK;
}

static ml_status read_array(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)low;
    if (!json_is_array(v)) return refuse(r, err, "an array");
    if ((double)json_array_size(v) > high) {
        return ml_web_refuse(r->h, err, 400, r->key, "%s: expected %.0f at most, found %zu", r->key, high,
                             json_array_size(v));
    }
    *(json_t **)((char *)r->p + offset) = v;
    return ML_OK;
}

static ml_status read_any(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)low;
    (void)high;
    (void)err;
    *(json_t **)((char *)r->p + offset) = v;
    return ML_OK;
}

/* Said by clients, and without a meaning here. */
static ml_status read_nothing(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)r;
    (void)v;
    (void)offset;
    (void)low;
    (void)high;
    (void)err;
    return ML_OK;
}

/* ---- keys with a form of their own ---- */

static ml_status read_seed(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    (void)high;
    if (!json_is_integer(v)) return refuse(r, err, "a whole number");
    r->p->sampling.seed = (uint64_t)json_integer_value(v);
    r->p->has_seed = true;
    return ML_OK;
}

static ml_status add_stop(reader *r, const json_t *v, ml_error *err)
{
    size_t n = json_string_length(v);
    if (!json_is_string(v) || n < 1 || n > ML_LIMIT_STOP_BYTES) {
        return ml_web_refuse(r->h, err, 400, "stop", "stop: expected a text of 1 to %d bytes, or an array of them",
                             ML_LIMIT_STOP_BYTES);
    }
    r->p->stop[r->p->n_stop++] = json_string_value(v);
    return ML_OK;
}

static ml_status read_stop(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if ((double)n > high) {
        return ml_web_refuse(r->h, err, 400, r->key, "stop: expected %.0f at most, found %zu", high, n);
    }
    r->p->stop = ml_calloc(n, sizeof *r->p->stop);
    if (!r->p->stop) return ml_fail_memory(err, n, "stop strings");
    if (!json_is_array(v)) return add_stop(r, v, err);
    for (size_t i = 0; i < n; i++) ML_TRY(add_stop(r, json_array_get(v, i), err));
    return ML_OK;
}

static ml_status read_bias(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    if (!json_is_object(v)) return refuse(r, err, "an object");
    size_t n = json_object_size(v);
    if ((double)n > high) {
        return ml_web_refuse(r->h, err, 400, r->key, "logit_bias: expected %.0f at most, found %zu", high, n);
    }
    r->p->bias = ml_calloc(n, sizeof *r->p->bias);
    if (!r->p->bias) return ml_fail_memory(err, n, "logit_bias");
    const char *key;
    json_t *value;
    json_object_foreach(v, key, value)
    {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        double bias = json_number_value(value);
        if (end == key || *end || errno || id < 0 || id > INT32_MAX || !json_is_number(value) || bias < -100 ||
            bias > 100) {
            return refuse(r, err, "token ids with a number from -100 to 100");
        }
        r->p->bias[r->p->n_bias++] = (ml_bias){ (int32_t)id, (float)bias };
    }
    return ML_OK;
}

/* Chat: a flag; completions: the number of alternatives. */
static ml_status read_logprobs(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    if (r->where == ML_FOR_CHAT) return read_flag(r, v, offsetof(ml_params, logprobs), 0, 0, err);
    ML_TRY(read_int(r, v, offsetof(ml_params, n_top), low, high, err));
    r->p->logprobs = true;
    return ML_OK;
}

static ml_status read_stream_options(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    (void)high;
    json_t *usage = json_object_get(v, "include_usage");
    bool fine = json_is_object(v) && json_object_size(v) == (usage ? 1 : 0) && (!usage || json_is_boolean(usage));
    if (!fine) return refuse(r, err, "{\"include_usage\": true or false}");
    r->p->include_usage = json_is_true(usage);
    return ML_OK;
}

/* {"type": "function", "function": {"name": NAME}} */
static const char *read_named_tool(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *function = json_object_get(v, "function");
    bool fine = type && !strcmp(type, "function") && json_object_size(v) == 2 && json_object_size(function) == 1;
    return fine ? json_string_value(json_object_get(function, "name")) : NULL;
}

static ml_status read_tool_choice(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    (void)high;
    const char *text = json_string_value(v);
    r->p->tool = read_named_tool(v);
    r->p->tools_off = text && !strcmp(text, "none");
    r->p->must_call = r->p->tool || (text && !strcmp(text, "required"));
    if (r->p->tools_off || r->p->must_call || (text && !strcmp(text, "auto"))) return ML_OK;
    return refuse(r, err,
                  "\"auto\", \"none\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": NAME}}");
}

static ml_status read_parallel_calls(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    ML_TRY(read_flag(r, v, offset, low, high, err));
    r->p->single_call = !r->p->single_call;
    return ML_OK;
}

/* {"type": "json_schema", "json_schema": {"name", "schema", "strict", "description"}} */
static ml_status read_schema(reader *r, const json_t *v, ml_error *err)
{
    json_t *whole = json_object_get(v, "json_schema"), *schema = json_object_get(whole, "schema"), *value;
    const char *key;
    if (!json_is_object(schema)) {
        return ml_web_refuse(r->h, err, 400, "response_format.json_schema.schema",
                             "response_format.json_schema.schema: expected a JSON schema");
    }
    json_object_foreach(whole, key, value)
    {
        if (strcmp(key, "name") && strcmp(key, "schema") && strcmp(key, "strict") && strcmp(key, "description")) {
            return ml_web_refuse(r->h, err, 400, "response_format.json_schema",
                                 "response_format.json_schema: there is no key %.60s", key);
        }
    }
    size_t n = json_dumpb(schema, NULL, 0, JSON_COMPACT);
    if (n > ML_LIMIT_SCHEMA_BYTES) {
        return ml_web_refuse(r->h, err, 400, "response_format", "the schema has %zu bytes: expected %d at most", n,
                             ML_LIMIT_SCHEMA_BYTES);
    }
    r->p->schema = schema;
    return ML_OK;
}

static ml_status read_format(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    (void)high;
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && !strcmp(type, "text")) return ML_OK;
    if (type && !strcmp(type, "json_schema")) return read_schema(r, v, err);
    if (!type || strcmp(type, "json_object") != 0) {
        return refuse(r, err, "{\"type\": \"text\"}, \"json_object\" or \"json_schema\"");
    }
    r->p->any_object = true;
    return ML_OK;
}

static ml_status read_encoding(reader *r, json_t *v, size_t offset, double low, double high, ml_error *err)
{
    (void)offset;
    (void)low;
    (void)high;
    const char *text = json_string_value(v);
    if (!text || (strcmp(text, "float") && strcmp(text, "base64"))) return refuse(r, err, "\"float\" or \"base64\"");
    r->p->base64 = !strcmp(text, "base64");
    return ML_OK;
}

/* ---- the table ---- */

#define AT(member) offsetof(ml_params, member)

static const struct {
    const char *key;
    int where;
    read_fn read;
    size_t offset;
    double low, high;
} keys[] = {
    { "model", ML_FOR_SAMPLING | ML_FOR_EMBEDDING, read_text, AT(model), 0, 0 },
    { "messages", ML_FOR_CHAT | ML_FOR_STREAM | ML_FOR_TRACE, read_array, AT(messages), 0, ML_LIMIT_MESSAGE },
    { "prompt", ML_FOR_COMPLETION | ML_FOR_TRACE, read_any, AT(prompt), 0, 0 },
    { "input", ML_FOR_EMBEDDING, read_any, AT(input), 0, 0 },
    { "encoding_format", ML_FOR_EMBEDDING, read_encoding, 0, 0, 0 },
    { "tools", ML_FOR_CHAT, read_array, AT(tools), 0, ML_LIMIT_TOOL },
    { "tool_choice", ML_FOR_CHAT, read_tool_choice, 0, 0, 0 },
    { "parallel_tool_calls", ML_FOR_CHAT, read_parallel_calls, AT(single_call), 0, 0 },
    { "max_tokens", ML_FOR_SAMPLING | ML_FOR_STREAM, read_int, AT(max_tokens), 0, 1e9 },
    { "max_completion_tokens", ML_FOR_CHAT, read_int, AT(max_tokens), 0, 1e9 },
    { "n", ML_FOR_ANSWERS, read_int, AT(n), 1, ML_LIMIT_CHOICE },
    { "stream", ML_FOR_ANSWERS, read_flag, AT(stream), 0, 0 },
    { "stream_options", ML_FOR_ANSWERS, read_stream_options, 0, 0, 0 },
    { "seed", ML_FOR_SAMPLING, read_seed, 0, 0, 0 },
    { "stop", ML_FOR_ANSWERS, read_stop, 0, 0, ML_LIMIT_STOP },
    { "temperature", ML_FOR_SAMPLING | ML_FOR_STREAM, read_real, AT(sampling.temperature), 0, 100 },
    { "top_p", ML_FOR_SAMPLING | ML_FOR_STREAM, read_real, AT(sampling.top_p), 1e-9, 1 },
    { "top_k", ML_FOR_SAMPLING, read_int, AT(sampling.top_k), 0, 1e9 },
    { "min_p", ML_FOR_SAMPLING, read_real, AT(sampling.min_p), 0, 0.999999 },
    { "repetition_penalty", ML_FOR_SAMPLING | ML_FOR_STREAM, read_real, AT(sampling.repetition_penalty), 0.01, 100 },
    { "repetition_window", ML_FOR_SAMPLING, read_int, AT(sampling.repetition_window), 0, 1e9 },
    { "repetition_penalty_length", ML_FOR_STREAM, read_int, AT(sampling.repetition_window), 0, 1e9 },
    { "frequency_penalty", ML_FOR_ANSWERS, read_real, AT(frequency_penalty), -2, 2 },
    { "presence_penalty", ML_FOR_ANSWERS, read_real, AT(presence_penalty), -2, 2 },
    { "logit_bias", ML_FOR_ANSWERS, read_bias, 0, 0, ML_LIMIT_BIAS },
    { "logprobs", ML_FOR_ANSWERS, read_logprobs, 0, 0, ML_LIMIT_TOP_LOGPROB },
    { "top_logprobs", ML_FOR_CHAT, read_int, AT(n_top), 0, ML_LIMIT_TOP_LOGPROB },
    { "echo", ML_FOR_COMPLETION, read_flag, AT(echo), 0, 0 },
    { "kv_cache", ML_FOR_ANSWERS, read_flag, AT(kv_cache), 0, 0 },
    { "trace", ML_FOR_ANSWERS, read_flag, AT(trace), 0, 0 },
    { "response_format", ML_FOR_ANSWERS, read_format, 0, 0, 0 },
    { "user", ML_FOR_ANSWERS | ML_FOR_EMBEDDING, read_nothing, 0, 0, 0 },
};
enum { N_KEY = sizeof keys / sizeof keys[0] };

static ml_status refuse_key(reader *r, ml_error *err)
{
    ml_nearest near = ml_nearest_begin(r->key);
    for (size_t i = 0; i < N_KEY; i++) {
        if (keys[i].where & r->where) ml_nearest_offer(&near, keys[i].key);
    }
    return ml_web_refuse(r->h, err, 400, r->key, "%.100s: there is no such key here%s%s%s", r->key,
                         near.best ? "; did you mean " : "", near.best ? near.best : "", near.best ? "?" : "");
}

static ml_status read_key(reader *r, json_t *v, ml_error *err)
{
    for (size_t i = 0; i < N_KEY; i++) {
        if (!(keys[i].where & r->where) || strcmp(keys[i].key, r->key) != 0) continue;
        if (json_is_null(v)) return ML_OK;
        return keys[i].read(r, v, keys[i].offset, keys[i].low, keys[i].high, err);
    }
    return refuse_key(r, err);
}

static ml_status draw_seed(uint64_t *seed, ml_error *err)
{
    uint32_t bits;
    if (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits) return ml_fail_errno(err, "no random seed");
    *seed = bits >> 1;
    return ML_OK;
}

ml_status ml_params_read(ml_web *h, int where, ml_params *p, ml_error *err)
{
    *p = (ml_params){ .sampling = ml_sampling_default(), .max_tokens = -1, .n = 1, .kv_cache = true };
    p->sampling.temperature = 1;
    p->sampling.repetition_window = 64;
    if (where == ML_FOR_STREAM) {
        p->max_tokens = 512;
        p->sampling.temperature = 0.01;
        p->sampling.top_p = 0.9;
        p->sampling.repetition_penalty = 1.15;
    }
    if (where == ML_FOR_COMPLETION) p->max_tokens = 16;
    if (where == ML_FOR_TRACE) p->max_tokens = 0;
    json_t *body, *value;
    ML_TRY(ml_web_json(h, &body, err));
    const char *key;
    json_object_foreach(body, key, value)
    {
        reader r = { h, p, key, where };
        ML_TRY(read_key(&r, value, err));
    }
    return p->has_seed ? ML_OK : draw_seed(&p->sampling.seed, err);
}

void ml_params_free(ml_params *p)
{
    ml_free((void *)p->stop);
    ml_free(p->bias);
}
