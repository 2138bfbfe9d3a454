/* Messages from JSON, as OpenAI's chat API writes them, and back. */
#ifndef ML_TOKEN_CHAT_JSON_H
#define ML_TOKEN_CHAT_JSON_H

#include "token/chat.h"

/* Messages whose texts live in the JSON they were read from, and in here; start zeroed. */
typedef struct {
    ml_chat_message *messages;
    size_t n;
    ml_chat_call *calls; /* of all messages */
    json_t *own;         /* texts that were put together */
} ml_chat_messages;

/* Read an array of objects: role (system or developer, user, assistant, tool), content (a text, an array of parts of
 * type text, or null), and where they make sense name, reasoning_content, tool_calls (id, function.name and
 * function.arguments: JSON as text, or the object itself), tool_call_id.  `where` stands for it in messages, which name
 * the index.  The JSON must outlive the result. */
ml_status ml_chat_read_messages(const json_t *list, const char *where, ml_chat_messages *out, ml_error *err);
void ml_chat_messages_free(ml_chat_messages *m);
/* Check an array of tool definitions: objects with a function that has a name. */
ml_status ml_chat_check_tools(const json_t *tools, const char *where, ml_error *err);

/* Append a value as templates do (tojson in transformers): Python's json.dumps(value, ensure_ascii=False). */
ml_status ml_chat_dump_json(const json_t *value, ml_chars *out, ml_error *err);

#endif
