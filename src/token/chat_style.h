/* What the files of chat formats share. */
#ifndef ML_TOKEN_CHAT_STYLE_H
#define ML_TOKEN_CHAT_STYLE_H

#include "token/chat.h"

#include <string.h>

/* In the literals of a style these stand for the tokenizer's own tokens. */
#define ML_CHAT_BOS "\x01"
#define ML_CHAT_EOS "\x02"

typedef enum {
    ML_THINK_NONE,
    ML_THINK_QWEN3, /* <think>, line feed, thoughts, ... behind the last question; none before it */
    ML_THINK_GLM,   /* <think>thoughts</think>, empty in answers before the last question */
    ML_THINK_KIMI,  /* the same, empty up to the last answer without calls */
} ml_chat_think;

/* How turns are written: literals in which the texts of special tokens stand for them. */
typedef struct {
    const char *begin;             /* before everything */
    const char *first_system;      /* before the first system message, where that differs */
    const char *before[ML_N_ROLE]; /* NULL: no place for this role */
    const char *after[ML_N_ROLE];
    const char *answer; /* makes the model answer */
    const char *finish; /* behind a last answer that completes the conversation */
    bool trim;          /* texts lose the white space around them */
} ml_chat_turns;

typedef enum {
    ML_CALL_ID_INDEX,  /* functions.NAME:N, counted in each message */
    ML_CALL_ID_COUNTER /* counted in the whole conversation */
} ml_chat_call_ids;

/* How Kimi's formats differ. */
typedef struct {
    bool names;                 /* the name of the speaker stands for that of its role */
    const char *behind_default; /* behind the default system message */
    ml_chat_call_ids call_ids;
    const char *behind_return; /* behind "## Return of ID" before a tool's result; NULL: the result alone */
} ml_chat_kimi;

enum { ML_CHAT_MAX_MARKS = 10 };

typedef struct ml_chat_style {
    const char *name;
    const char *marks[ML_CHAT_MAX_MARKS]; /* tokens without which the format cannot be used */
    const char *ends[ML_CHAT_MAX_ENDS];   /* tokens that end an answer, as far as there are */
    const char *has[6], *lacks[8];        /* what its template contains, and what it does not */
    bool by_tokens;                       /* chosen for a tokenizer with its marks that has no template */
    const char *default_system;           /* NULL: none */
    bool tools;
    ml_chat_think think;
    ml_chat_turns turns;
    const ml_chat_kimi *kimi; /* NULL: turns say all */
} ml_chat_style;

/* Where a rendered conversation goes: ids, or text. */
typedef struct {
    const ml_chat_style *style;
    const ml_tokenizer *t;
    ml_ids *ids;      /* NULL: text is wanted */
    ml_chars *text;   /* NULL: ids are */
    ml_chars pending; /* text whose end has not come, since encoding it in parts would give other ids */
} ml_chat_sink;

/* A literal of the format: special tokens in it count. */
ml_status ml_chat_put(ml_chat_sink *sink, const char *literal, ml_error *err);
/* Somebody's text. */
ml_status ml_chat_put_text(ml_chat_sink *sink, ml_text text, ml_error *err);
ml_status ml_chat_put_ids(ml_chat_sink *sink, const int32_t *id, size_t n, ml_error *err);

/* The text without the white space (only line feeds: without those) at its beginning and end. */
ml_text ml_chat_trim(ml_text text, bool only_line_feeds, bool begin, bool end);
/* What an answer's message has to say, thoughts apart, also when it has them in the text ("<think>...</think>"). */
void ml_chat_split_thoughts(const ml_chat_message *m, ml_text *thoughts, ml_text *text);

extern const char *const ml_chat_call_marks[ML_N_CALL_MARK];

ml_status ml_chat_render_kimi(ml_chat_sink *sink, const ml_chat_conversation *c, ml_error *err);

static inline ml_text ml_text_of(const char *text)
{
    return (ml_text){ text, strlen(text) };
}

#endif
