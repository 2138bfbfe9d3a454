/* GET /v1/models, POST /tokenize, POST /detokenize */
#include "serve/handlers.h"
#include "serve/params.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

#include <string.h>

ml_status ml_openai_models(ml_web *h, ml_error *err)
{
    return ml_web_reply_json(h, 200, ml_models_list_openai(h->server->models), err);
}

ml_status ml_openai_model(ml_web *h, ml_error *err)
{
    json_t *found = ml_models_find_openai(h->server->models, h->id);
    if (found) return ml_web_reply_json(h, 200, found, err);
    return ml_web_refuse(h, err, 404, "model", "there is no loaded model %.200s: GET /v1/models lists them", h->id);
}

/* ---- tokenize ---- */

typedef struct {
    const char *model;
    const json_t *content, *messages;
    bool add_special, parse_special, with_pieces;
} tokenize_params;

static ml_status read_flag(ml_web *h, const char *key, const json_t *v, bool *out, ml_error *err)
{
    if (!json_is_boolean(v)) return ml_web_refuse(h, err, 400, key, "%s: expected true or false", key);
    *out = json_is_true(v);
    return ML_OK;
}

static ml_status read_tokenize(ml_web *h, tokenize_params *p, ml_error *err)
{
    json_t *body, *v;
    const char *key;
    ML_TRY(ml_web_json(h, &body, err));
    json_object_foreach(body, key, v)
    {
        if (!strcmp(key, "model") && json_is_string(v)) {
            p->model = json_string_value(v);
        } else if (!strcmp(key, "content") && json_is_string(v)) {
            p->content = v;
        } else if (!strcmp(key, "messages") && json_is_array(v)) {
            p->messages = v;
        } else if (!strcmp(key, "add_special")) {
            ML_TRY(read_flag(h, key, v, &p->add_special, err));
        } else if (!strcmp(key, "parse_special")) {
            ML_TRY(read_flag(h, key, v, &p->parse_special, err));
        } else if (!strcmp(key, "with_pieces")) {
            ML_TRY(read_flag(h, key, v, &p->with_pieces, err));
        } else {
            return ml_web_refuse(h, err, 400, key,
                                 "%.100s: expected model, content or messages, add_special, parse_special, "
                                 "with_pieces",
                                 key);
        }
    }
    if (!p->content == !p->messages) return ml_web_refuse(h, err, 400, "content", "expected content or messages");
    return ML_OK;
}

static ml_status encode(ml_web *h, const ml_served *s, const tokenize_params *p, ml_ids *out, ml_error *err)
{
    if (p->messages) return ml_prompt_from_messages(h, s, p->messages, NULL, out, err);
    if (p->add_special) ML_TRY(ml_tokenizer_append_prefix(s->m.tokenizer, out, err));
    ML_TRY(ml_tokenizer_encode(s->m.tokenizer, json_string_value(p->content), json_string_length(p->content),
                               p->parse_special, out, err));
    return p->add_special ? ml_tokenizer_append_suffix(s->m.tokenizer, out, err) : ML_OK;
}

ml_status ml_tokenize(ml_web *h, ml_error *err)
{
    tokenize_params p = { 0 };
    ml_served *named;
    ml_ids ids = { 0 };
    ML_TRY(read_tokenize(h, &p, err));
    ML_TRY(ml_models_acquire(h, p.model, &named, err));
    const ml_served *s = ml_served_model(named);
    ml_status status = encode(h, s, &p, &ids, err);
    json_t *list = json_array();
    for (size_t i = 0; i < ids.n && status == ML_OK; i++) {
        json_array_append_new(list, p.with_pieces ? json_pack("{s:i, s:o}", "id", ids.id[i], "piece",
                                                              ml_piece_text(s->m.tokenizer, ids.id[i]))
                                                  : json_integer(ids.id[i]));
    }
    json_t *reply = json_pack("{s:o, s:I}", "tokens", list, "count", (json_int_t)ids.n);
    ml_models_release(h->server->models, named);
    ml_ids_free(&ids);
    if (status == ML_OK) return ml_web_reply_json(h, 200, reply, err);
    json_decref(reply);
    return status;
}

/* ---- detokenize ---- */

static ml_status decode(ml_web *h, const ml_tokenizer *t, const json_t *tokens, ml_chars *out, ml_error *err)
{
    ml_detok detok = { .replace_invalid = true };
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *v = json_array_get(tokens, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= ml_tokenizer_vocab_size(t)) {
            return ml_web_refuse(h, err, 400, "tokens", "tokens: expected ids below %d, found something else at %zu",
                                 ml_tokenizer_vocab_size(t), i);
        }
        ML_TRY(ml_detok_push(&detok, t, (int32_t)id, out, err));
    }
    return ml_detok_flush(&detok, out, err);
}

ml_status ml_detokenize(ml_web *h, ml_error *err)
{
    json_t *body;
    ml_served *named;
    ml_chars text = { 0 };
    ML_TRY(ml_web_json(h, &body, err));
    const json_t *tokens = json_object_get(body, "tokens"), *model = json_object_get(body, "model");
    bool fine = json_is_array(tokens) && (!model || json_is_string(model)) && json_object_size(body) == (model ? 2 : 1);
    if (!fine) return ml_web_refuse(h, err, 400, "tokens", "expected {\"model\"?, \"tokens\": [ids]}");
    ML_TRY(ml_models_acquire(h, json_string_value(model), &named, err));
    const ml_served *s = ml_served_model(named);
    ml_status status = decode(h, s->m.tokenizer, tokens, &text, err);
    json_t *reply = json_pack("{s:s%}", "content", text.n ? text.data : "", text.n);
    ml_models_release(h->server->models, named);
    ml_chars_free(&text);
    if (status == ML_OK) return ml_web_reply_json(h, 200, reply, err);
    json_decref(reply);
    return status;
}
