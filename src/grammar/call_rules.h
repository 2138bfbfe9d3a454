/* What an answer may be when tools may or must be called, as a grammar:
 *
 *   [text] section-begin call... section-end
 *   call: call-begin functions.NAME:NUMBER arguments-mark JSON call-end
 *
 * The marks of the format (ML_MARK_SECTION_BEGIN ..) are the grammar's, with the same numbers; two more are <think> and
 * </think>, where they are tokens. */
#ifndef ML_GRAMMAR_CALL_RULES_H
#define ML_GRAMMAR_CALL_RULES_H

#include "base/json.h"
#include "grammar/grammar.h"
#include "token/chat.h"

enum {
    ML_MOST_CALLS = 16, /* of one answer */
    ML_MARK_THINK = ML_N_CALL_MARK,
    ML_MARK_THOUGHT,
    ML_N_RULE_MARK
};

typedef struct {
    const json_t *tools; /* definitions as OpenAI's API has them */
    const char *only;    /* the tool that must be called; NULL: any */
    bool required;       /* some tool must be, at once; else text may come, and calls behind it */
    bool single;         /* one call at most */
    bool thoughts;       /* before a required call, too, where <think> is a token */
    int64_t first;       /* number of the first call */
    /* What the text is when no tool is called: any, or a JSON value. */
    const json_t *schema;
    bool any_object;
} ml_call_rules;

/* Arguments are what the tool's parameters accept where a call is required or the tool says "strict": true, else any
 * text.  ML_EINVAL naming the tool or the keyword.  Free *g also when it fails. */
ml_status ml_call_rules_compile(const ml_call_rules *r, ml_grammar *g, ml_error *err);

#endif
