/* /api/conversations: the store as HTTP. */
#include "serve/handlers.h"
#include "serve/ids.h"
#include "serve/limits.h"
#include "serve/server_internal.h"

#include <string.h>

ml_status ml_api_conversations(ml_web *h, ml_error *err)
{
    json_t *list = NULL;
    ml_status status = ml_store_list(h->server->store, h->owner, &list, err);
    if (status == ML_OK) return ml_web_reply_json(h, 200, json_pack("{s:o}", "conversations", list), err);
    json_decref(list);
    return status;
}

static ml_status refuse_unknown(ml_web *h, ml_error *err)
{
    return ml_web_refuse(h, err, 404, "id", "there is no conversation %.100s", h->id);
}

static ml_status reply_conversation(ml_web *h, const char *id, int status, ml_error *err)
{
    json_t *found = NULL;
    ml_status got = ml_store_get(h->server->store, h->owner, id, &found, err);
    if (got == ML_OK && found) return ml_web_reply_json(h, status, found, err);
    json_decref(found);
    return got == ML_OK ? refuse_unknown(h, err) : got;
}

/* ---- what is in a body ---- */

typedef struct {
    const char *title;
    const json_t *settings;
    int64_t head; /* -1: not said */
} changes;

static ml_status read_title(ml_web *h, const json_t *v, const char **out, ml_error *err)
{
    if (!json_is_string(v) || json_string_length(v) > ML_LIMIT_TITLE) {
        return ml_web_refuse(h, err, 400, "title", "title: expected a text of %d bytes at most", ML_LIMIT_TITLE);
    }
    *out = json_string_value(v);
    return ML_OK;
}

/* null is 0 */
static ml_status read_message_id(ml_web *h, const char *key, const json_t *v, int64_t *out, ml_error *err)
{
    *out = json_integer_value(v);
    if (json_is_null(v) || (json_is_integer(v) && *out > 0)) return ML_OK;
    return ml_web_refuse(h, err, 400, key, "%s: expected a message's id, or null", key);
}

static ml_status read_changes(ml_web *h, bool with_head, changes *c, ml_error *err)
{
    json_t *body, *v;
    const char *key;
    *c = (changes){ .head = -1 };
    ML_TRY(ml_web_json(h, &body, err));
    json_object_foreach(body, key, v)
    {
        if (!strcmp(key, "title")) {
            ML_TRY(read_title(h, v, &c->title, err));
        } else if (!strcmp(key, "settings") && json_is_object(v)) {
            c->settings = v;
        } else if (!strcmp(key, "head") && with_head) {
            ML_TRY(read_message_id(h, key, v, &c->head, err));
        } else {
            return ml_web_refuse(h, err, 400, key, "%.100s: expected title, settings (an object)%s", key,
                                 with_head ? ", head" : "");
        }
    }
    return ML_OK;
}

/* ---- handlers ---- */

ml_status ml_api_conversation_make(ml_web *h, ml_error *err)
{
    changes c;
    char id[48];
    ML_TRY(read_changes(h, false, &c, err));
    ml_make_id("c-", id, sizeof id);
    ML_TRY(ml_store_make(h->server->store, h->owner, id, c.title ? c.title : "", c.settings, err));
    return reply_conversation(h, id, 201, err);
}

ml_status ml_api_conversation_get(ml_web *h, ml_error *err)
{
    return reply_conversation(h, h->id, 200, err);
}

ml_status ml_api_conversation_change(ml_web *h, ml_error *err)
{
    changes c;
    bool found;
    ML_TRY(read_changes(h, true, &c, err));
    ML_TRY(ml_store_change(h->server->store, h->owner, h->id, c.title, c.settings, c.head, &found, err));
    if (!found && c.head > 0) {
        return ml_web_refuse(h, err, 404, "head", "there is no conversation %.100s with a message %lld", h->id,
                             (long long)c.head);
    }
    return found ? reply_conversation(h, h->id, 200, err) : refuse_unknown(h, err);
}

ml_status ml_api_conversation_delete(ml_web *h, ml_error *err)
{
    bool found;
    ML_TRY(ml_store_delete(h->server->store, h->owner, h->id, &found, err));
    return found ? ml_web_reply(h, 204, "application/json", "", 0, err) : refuse_unknown(h, err);
}

static ml_status read_message(ml_web *h, ml_store_message *m, ml_error *err)
{
    json_t *body, *v;
    const char *key;
    *m = (ml_store_message){ .model = "" };
    ML_TRY(ml_web_json(h, &body, err));
    json_object_foreach(body, key, v)
    {
        if (!strcmp(key, "parent")) {
            ML_TRY(read_message_id(h, key, v, &m->parent, err));
        } else if (!strcmp(key, "role") && json_is_string(v) && json_string_length(v) <= 16) {
            m->role = json_string_value(v);
        } else if (!strcmp(key, "content") && json_is_string(v)) {
            m->content = json_string_value(v);
        } else if (!strcmp(key, "model") && (json_is_string(v) || json_is_null(v))) {
            m->model = json_is_string(v) ? json_string_value(v) : "";
        } else if (!strcmp(key, "meta") && json_is_object(v)) {
            m->meta = v;
        } else {
            return ml_web_refuse(h, err, 400, key, "%.100s: expected parent, role, content, model, meta (an object)",
                                 key);
        }
    }
    if (m->role && m->content) return ML_OK;
    return ml_web_refuse(h, err, 400, m->role ? "content" : "role", "expected at least role and content");
}

ml_status ml_api_message_add(ml_web *h, ml_error *err)
{
    ml_store_message m;
    json_t *made;
    ML_TRY(read_message(h, &m, err));
    ML_TRY(ml_store_add_message(h->server->store, h->owner, h->id, &m, &made, err));
    if (made) return ml_web_reply_json(h, 201, made, err);
    return ml_web_refuse(h, err, 404, m.parent ? "parent" : "id", "there is no conversation %.100s%s", h->id,
                         m.parent ? " with that parent" : "");
}
