/* Answers being made: one or several choices, from tokens of the scheduler's thread to text.
 *
 *   scheduler: adjust logits, store tokens, signal        handler: tokens -> text, stop strings, what is news
 *
 * The scheduler's side writes arrays that were made large enough before and publishes their length; nothing is locked
 * but to wake who waits. */
#ifndef ML_SERVE_ANSWER_H
#define ML_SERVE_ANSWER_H

#include "serve/answer_rules.h"
#include "serve/params.h"
#include "serve/scheduler.h"
#include "token/chat_output.h"

#include <pthread.h>

/* Log-probabilities of one token and of the likeliest ones. */
typedef struct {
    double logprob;
    int32_t *top_id; /* [n_top] the likeliest first */
    double *top_logprob;
} ml_scored;

typedef struct ml_choice {
    ml_task task; /* first: the scheduler hands it to callbacks */
    struct ml_answers *all;
    int64_t index;
    const int32_t *prompt;   /* [n_prompt] */
    int64_t n_prompt, limit; /* limit: tokens of the answer */
    /* written by the scheduler: n_token is published, then n tokens are there to be read */
    int32_t *id;            /* [limit] */
    double *logprob;        /* [limit] */
    int32_t *top_id;        /* [limit, n_top] */
    double *top_logprob;    /* [limit, n_top] */
    double *prompt_logprob; /* [n_prompt] of each token but the first, for echo */
    int32_t *prompt_top_id; /* [n_prompt, n_top] */
    double *prompt_top_logprob;
    int32_t *count; /* [vocab] how often each id was chosen, for penalties */
    int64_t n_counted;
    ml_constraint *constraint; /* NULL: none */
    float choice_logit;        /* of the last choice, and its alternatives */
    float *top_logit;          /* [n_top] */
    _Atomic int64_t n_token;
    atomic_bool ended;
    ml_finish finish;
    ml_error failure; /* code ML_OK: none */
    ml_request_stats stats;
    ml_routing_trace trace; /* with params.trace */
    /* the handler's */
    int64_t n_taken;  /* tokens that became text */
    int64_t n_counts; /* of them, those that belong to the answer (before a stop string) */
    ml_chat_output out;
    size_t n_text;             /* bytes of out.text that may be shown */
    size_t n_searched;         /* of out.text, for stop strings */
    bool done, cut;            /* nothing more will come; a stop string ended it */
    const char *finish_reason; /* when done */
} ml_choice;

typedef struct ml_answers {
    ml_web *h;
    ml_served *served, *named; /* named: the same, or an adapter of it */
    const ml_params *params;
    ml_answer_rules rules;
    ml_ids *prompt; /* [n_prompt] owned */
    size_t n_prompt;
    ml_choice *choice; /* [n_choice] prompt by prompt, params->n of each */
    size_t n_choice;
    double start;
    bool timed; /* the first token was counted */
    pthread_mutex_t lock;
    pthread_cond_t news;
} ml_answers;

/* Begin answers to prompts, which are taken over also when it fails.  The params and the model outlive them; `format`
 * says how the answers are read.  End with ml_answers_free, also when it fails. */
ml_status ml_answers_start(ml_answers *a, ml_web *h, ml_served *named, const ml_params *params, ml_ids *prompt,
                           size_t n_prompt, const ml_chat_format *format, ml_error *err);
/* Cancels what is not done, and waits for it. */
void ml_answers_free(ml_answers *a);
/* Wait for a token or an end, a twentieth of a second at most. */
void ml_answers_wait(ml_answers *a);
/* Turn new tokens into text. */
ml_status ml_choice_advance(ml_choice *c, ml_error *err);
/* Wait until the scheduler has let go of all: then the statistics are complete. */
void ml_answers_await_ends(ml_answers *a);
bool ml_answers_are_done(const ml_answers *a);
/* Wait for all.  ML_ECANCEL when the client has gone. */
ml_status ml_answers_finish(ml_answers *a, ml_error *err);

/* Of the answer's token i, or (prompt) of the prompt's. */
ml_scored ml_choice_scored(const ml_choice *c, int64_t i, bool prompt);
/* Count them for /metrics, when all are done. */
void ml_answers_count(ml_answers *a);
/* Tokens of prompts (each once), of answers, and reused ones. */
json_t *ml_answers_usage(const ml_answers *a);
/* Times, rate, and what else is ours. */
json_t *ml_answers_extra(const ml_answers *a, const char *trace_id);

#endif
