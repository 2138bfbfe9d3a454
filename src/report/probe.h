/* What a report asks a checkpoint itself: what it writes after fixed prompts, which experts that takes and how sure the
 * routers are, and how fast it writes with and without a cache. */
#ifndef ML_REPORT_PROBE_H
#define ML_REPORT_PROBE_H

#include "base/log.h"
#include "infer/speed.h"

enum { ML_REPORT_N_BIN = 20 };

typedef struct {
    const char *const *prompt; /* [n_prompt] */
    size_t n_prompt;
    int64_t max_tokens; /* of each answer */
    double temperature, top_p;
    uint64_t seed; /* the same for every prompt and checkpoint */
    bool measure_speed;
    ml_progress *progress; /* NULL: silent; in answers, of which `done` are there already */
    double done;
} ml_report_probe_config;

typedef struct {
    char *text; /* what came after the prompt; may hold any bytes */
    size_t n_bytes;
    int64_t n_token;
    ml_finish finish;
} ml_report_answer;

typedef struct {
    ml_report_answer *answer; /* [n_prompt] */
    size_t n_prompt;
    /* Over all tokens of prompts and answers; n_layer 0: a model without experts. */
    int64_t n_token, n_layer, n_expert;
    int64_t first_layer; /* the model's first layer with experts; the others follow it */
    double *load;        /* [n_layer, n_expert] choices over the mean of the layer: 1 everywhere when balanced */
    /* Share of tokens and layers whose highest router probability is in [i, i + 1) / ML_REPORT_N_BIN.  Of sigmoid
     * routers, the score over the sum of all scores. */
    double confidence[ML_REPORT_N_BIN];
    /* Greedy decoding behind the first prompt, with the cache on and off; n_gen 0: not measured. */
    int64_t n_gen;
    ml_rate cached, uncached;
    bool is_equal; /* the same tokens both ways */
} ml_report_probe;

/* `path` is a checkpoint (a model folder).  ML_ECANCEL when stopped. */
ml_status ml_report_probe_run(const char *path, const ml_report_probe_config *config, ml_report_probe *out,
                              ml_error *err);
void ml_report_probe_free(ml_report_probe *p);

#endif
