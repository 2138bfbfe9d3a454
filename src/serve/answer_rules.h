/* What a request says that its answers must be: response_format, and calls of tools. */
#ifndef ML_SERVE_ANSWER_RULES_H
#define ML_SERVE_ANSWER_RULES_H

#include "grammar/call_rules.h"
#include "serve/models.h"
#include "serve/params.h"

/* Start zeroed. */
typedef struct {
    bool any; /* else the answer is free */
    ml_grammar grammar;
    int32_t mark[ML_N_RULE_MARK]; /* [n_mark] ids of the grammar's marks */
    size_t n_mark;
} ml_answer_rules;

/* 400 for what cannot be kept to.  Free the grammar also when it fails. */
ml_status ml_answer_rules_make(ml_web *h, const ml_served *s, const ml_params *p, const ml_chat_format *format,
                               ml_answer_rules *out, ml_error *err);

#endif
