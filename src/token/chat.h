/* A conversation as token ids.
 *
 * A chat format says how a model has learned to see turns.  Formats are tables and code of this program; the template
 * that is stored with a model is never executed, only recognised by what it contains.
 *
 *   messages + tools --(format)--> marks and texts --(tokenizer)--> ids
 *
 * Marks are ids, never text: whatever a message contains, it cannot begin another turn.  What a model answers is read
 * back by token/chat_output.h, messages come from JSON by token/chat_json.h. */
#ifndef ML_TOKEN_CHAT_H
#define ML_TOKEN_CHAT_H

#include "base/json.h"
#include "token/tokenizer.h"

/* Every format, for tables of names.
 *   none               texts without turns
 *   moonlight-moe      the 130M model's: <|system|>S<|user|>U<|assistant|>A, an end behind the last answer only
 *   kimi               Moonlight-16B-A3B-Instruct's
 *   kimi-k2-first      Kimi-K2-Instruct's first one, kimi-k2 a later one, kimi-k2-thinking with thoughts
 *   chatml             <|im_start|>role, line feed, text<|im_end|>; qwen2.5 and qwen3 are its relatives
 *   llama3, llama3.1   <|start_header_id|>role<|end_header_id|>
 *   deepseek-v2        User: and Assistant: as text
 *   glm-4.5            also GLM-4.6's */
#define ML_CHAT_FORMATS(X)                                                                                             \
    X("none")                                                                                                          \
    X("moonlight-moe")                                                                                                 \
    X("kimi")                                                                                                          \
    X("kimi-k2-first")                                                                                                 \
    X("kimi-k2")                                                                                                       \
    X("kimi-k2-thinking")                                                                                              \
    X("chatml")                                                                                                        \
    X("qwen2.5")                                                                                                       \
    X("qwen3")                                                                                                         \
    X("llama3")                                                                                                        \
    X("llama3.1")                                                                                                      \
    X("deepseek-v2")                                                                                                   \
    X("glm-4.5")

typedef enum { ML_ROLE_SYSTEM, ML_ROLE_USER, ML_ROLE_ASSISTANT, ML_ROLE_TOOL, ML_N_ROLE } ml_chat_role;

enum { ML_CHAT_MAX_ENDS = 8 };

/* A format and the tokenizer's ids for it. */
typedef struct {
    const struct ml_chat_style *style;
    int32_t end[ML_CHAT_MAX_ENDS]; /* each ends an answer: the right mark first, then those of other turns */
    size_t n_end;
} ml_chat_format;

/* What an assistant wants a tool to do. */
typedef struct {
    ml_text id, name;
    ml_text arguments; /* JSON, put as it is */
} ml_chat_call;

typedef struct {
    ml_chat_role role;
    ml_text text;
    ml_text name;      /* of the speaker, where formats show it; empty: the role's */
    ml_text reasoning; /* assistant: thoughts before the text */
    const ml_chat_call *calls;
    size_t n_call;
    ml_text call_id;   /* tool: the call whose result this is */
    const int32_t *id; /* assistant: the answer as the ids that a model gave, instead of all the above where the format
                          shows old answers in full */
    size_t n_id;
} ml_chat_message;

typedef struct {
    const ml_chat_message *messages;
    size_t n_message;
    const json_t *tools; /* definitions as OpenAI's API has them, an array; NULL: none */
    bool answer;         /* the model is to go on with an answer; otherwise the conversation is complete */
} ml_chat_conversation;

/* "none" and so on. */
const char *ml_chat_name(const ml_chat_format *f);
bool ml_chat_is_none(const ml_chat_format *f);
/* What stands in for a system message that is missing; NULL: nothing. */
const char *ml_chat_default_system(const ml_chat_format *f);
/* Tools can be declared and called. */
bool ml_chat_has_tools(const ml_chat_format *f);
/* Answers may begin with thoughts. */
bool ml_chat_thinks(const ml_chat_format *f);
/* Kimi's marks of calls (chat_kimi.c). */
enum {
    ML_MARK_SECTION_BEGIN,
    ML_MARK_CALL_BEGIN,
    ML_MARK_ARGUMENTS,
    ML_MARK_CALL_END,
    ML_MARK_SECTION_END,
    ML_N_CALL_MARK
};
/* Their ids.  ML_EINVAL when the format has no calls or the tokenizer lacks one. */
ml_status ml_chat_find_call_marks(const ml_chat_format *f, const ml_tokenizer *t, int32_t id[ML_N_CALL_MARK],
                                  ml_error *err);
/* The number in the id of an answer's first call, functions.NAME:NUMBER, when the conversation has n_call before it. */
int64_t ml_chat_first_call(const ml_chat_format *f, int64_t n_call);
/* "system", "user", "assistant", "tool" */
const char *ml_chat_role_name(ml_chat_role role);

/* "auto" and the names of ML_CHAT_FORMATS, NULL-terminated: the words of config.json's moonlight.chat_format. */
extern const char *const ml_chat_words[];

/* The format named `given`; for NULL the one that is stored: `stored` (config.json's, may be NULL or "auto"), then the
 * tokenizer's own key; else the one whose template the tokenizer has; else, without a template, the one whose tokens it
 * has, or none.  ML_EINVAL for an unknown name or template, naming what there is, and for a format of which the
 * tokenizer lacks a token. */
ml_status ml_chat_choose(const ml_tokenizer *t, const char *given, const char *stored, ml_chat_format *out,
                         ml_error *err);

/* Append a conversation.  Where the format has a default system message and the first message is none, the default goes
 * before it.  ML_EINVAL, with *out as it was, for roles, tools and calls that the format has no place for. */
ml_status ml_chat_render(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_conversation *c, ml_ids *out,
                         ml_error *err);
/* The same as a text with the marks written out, for people; a text in it may look like a mark. */
ml_status ml_chat_render_text(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_conversation *c,
                              ml_chars *out, ml_error *err);

#endif
