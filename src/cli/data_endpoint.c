#include "cli/data_endpoint.h"

#include "cli/amount.h"
#include "cli/cli.h"
#include "data/synth_endpoint.h"

#include <stdlib.h>
#include <string.h>

static ml_status read_options(const ml_options *o, ml_synth_endpoint_config *c, ml_request_pace *pace, ml_error *err)
{
    *c =
        (ml_synth_endpoint_config){ .split = strcmp(ml_options_text(o, "split"), "val") ? ML_SPLIT_TRAIN : ML_SPLIT_VAL,
                                    .n_document = (uint64_t)ml_options_int(o, "docs"),
                                    .seed = (uint64_t)ml_options_int(o, "seed"),
                                    .n_parallel = ml_options_int(o, "parallel"),
                                    .prompt_price = ml_options_real(o, "prompt-price"),
                                    .completion_price = ml_options_real(o, "completion-price") };
    c->completion = (ml_completion_config){ .endpoint = ml_options_text(o, "endpoint"),
                                            .key = getenv("OPENAI_API_KEY"),
                                            .temperature = ml_options_real(o, "temperature"),
                                            .max_tokens = ml_options_int(o, "max-tokens"),
                                            .stall_seconds = ml_options_real(o, "answer-timeout"),
                                            .n_retry = ml_options_int(o, "retries"),
                                            .retry_wait = ml_options_real(o, "retry-wait"),
                                            .pace = pace };
    ML_TRY(ml_cli_require(o, "out", &c->out, err));
    ML_TRY(ml_cli_require(o, "model", &c->completion.model, err));
    if (!c->n_document) return ml_fail(err, ML_EINVAL, "give --docs, e.g. --docs 2000");
    return ML_OK;
}

static ml_status print_result(const ml_options *o, const ml_synth_endpoint_config *c, const ml_synth_endpoint_result *r,
                              ml_error *err)
{
    json_t *rejects = json_object();
    for (int i = 1; i < ML_N_SYNTH_FAULT; i++) {
        const char *name = ml_synth_fault_name((ml_synth_fault)i);
        if (!r->n_reject[i]) continue;
        json_object_set_new(rejects, name, json_integer((json_int_t)r->n_reject[i]));
        ml_log_info("%llu answers rejected: %s", (unsigned long long)r->n_reject[i], name);
    }
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:o}", "file", c->out,
                                           "documents", (json_int_t)c->n_document, "bytes", (json_int_t)r->n_bytes,
                                           "prompts", (json_int_t)r->n_prompt, "requests", (json_int_t)r->n_request,
                                           "prompt_tokens", (json_int_t)r->n_prompt_token, "completion_tokens",
                                           (json_int_t)r->n_completion_token, "cost", r->cost, "resumed", r->resumed,
                                           "rejected", rejects),
                                 err);
    }
    json_decref(rejects);
    printf("%s: %s, %s, from %s with %lld + %lld tokens", c->out, ml_cli_count((int64_t)c->n_document, "document").text,
           ml_cli_bytes((int64_t)r->n_bytes).text, ml_cli_count(r->n_request, "request").text,
           (long long)r->n_prompt_token, (long long)r->n_completion_token);
    if (r->cost > 0) printf(", cost %.4f", r->cost);
    printf("\n");
    return ML_OK;
}

ml_status ml_cli_synth_endpoint(const ml_options *o, bool pairs, ml_error *err)
{
    ml_request_pace pace;
    ml_synth_endpoint_config c;
    ml_synth_endpoint_result result;
    ML_TRY(read_options(o, &c, &pace, err));
    c.pairs = pairs;
    ml_request_pace_init(&pace, ml_options_real(o, "rate"));
    c.progress = ml_progress_begin("asking", "documents", (double)c.n_document);
    ml_status status = ml_data_synth_endpoint(&c, &result, err);
    ml_progress_end(c.progress);
    ml_request_pace_free(&pace);
    return status == ML_OK ? print_result(o, &c, &result, err) : status;
}
