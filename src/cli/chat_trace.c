/* /trace: the experts of the last answer, as coloured text and bars.
 *
 * The routing is not kept while an answer is written: what the session holds is read once more, by an engine of one
 * slot that listens (infer/engine.h). */
#include "base/alloc.h"
#include "cli/chat.h"
#include "infer/engine.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_BARS = 16, BAR_WIDTH = 30 };

static void ignore_logits(void *arg, int64_t pos, const float *logits)
{
    (void)arg, (void)pos, (void)logits;
}

static ml_status read_again(ml_talk *c, const int32_t *ids, int64_t n, ml_routing_trace *trace, ml_error *err)
{
    ml_engine_config config = { .n_slot = 1, .capacity = n + 1, .kv_dtype = ml_cli_kv_dtype(c->o) };
    ml_request request = { .prompt = ids,
                           .n_prompt = n,
                           .sampling = ml_sampling_default(),
                           .trace = trace,
                           .on_prompt_logits = ignore_logits };
    ml_engine *engine = NULL;
    int64_t id;
    ml_status status = ml_engine_make(c->m.model, &config, &engine, err);
    if (status == ML_OK) status = ml_engine_submit(engine, &request, &id, err);
    while (status == ML_OK && ml_engine_is_busy(engine)) status = ml_engine_step(engine, err);
    ml_engine_free(engine);
    return status;
}

/* ---- shown ---- */

/* Of the 216 colours of terminals, neighbours far apart, none of them dark. */
static int colour_of(int32_t expert)
{
    static const int colours[] = { 75, 208, 113, 176, 220, 44, 203, 147, 156, 215, 38, 211 };
    return colours[expert % (int32_t)(sizeof colours / sizeof *colours)];
}

/* The expert that weighs most. */
static int32_t top_expert(const ml_routing_trace *t, int64_t pos, int64_t layer)
{
    int64_t at = (pos * t->n_layer + layer) * t->top_k, best = 0;
    for (int64_t k = 1; k < t->top_k; k++) {
        if (t->weight[at + k] > t->weight[at + best]) best = k;
    }
    return t->expert[at + best];
}

/* Each token in the colour of its expert; its number behind it where there are no colours. */
static ml_status print_tokens(const ml_talk *c, const ml_routing_trace *t, const int32_t *ids, int64_t from, int64_t to,
                              int64_t layer, ml_error *err)
{
    bool terminal = ml_line_reader_is_terminal(c->reader);
    ml_detok decoder = { .replace_invalid = true };
    ml_chars text = { 0 };
    ml_status status = ML_OK;
    for (int64_t i = from; i < to && status == ML_OK; i++) {
        int32_t expert = top_expert(t, i, layer);
        text.n = 0;
        status = ml_detok_push(&decoder, c->m.tokenizer, ids[i], &text, err);
        if (status != ML_OK) break;
        if (terminal) printf("\033[38;5;%dm", colour_of(expert));
        ml_talk_print(c, text.data, text.n, stdout);
        if (terminal)
            printf("\033[0m");
        else
            printf("[%d]", expert);
    }
    text.n = 0;
    if (status == ML_OK) status = ml_detok_flush(&decoder, &text, err);
    if (status == ML_OK) ml_talk_print(c, text.data, text.n, stdout);
    ml_chars_free(&text);
    putchar('\n');
    return status;
}

static void print_bar(const ml_talk *c, int32_t expert, double share, double most)
{
    bool terminal = ml_line_reader_is_terminal(c->reader);
    int n = (int)lround(BAR_WIDTH * share / most);
    printf("  expert %-4d %5.1f %%  ", expert, 100 * share);
    if (terminal) printf("\033[38;5;%dm", colour_of(expert));
    for (int i = 0; i < n; i++) putchar('#');
    printf(terminal ? "\033[0m\n" : "\n");
}

typedef struct {
    int32_t expert;
    int64_t n;
} use;

/* The most used first, then the lower number. */
static int by_use(const void *a, const void *b)
{
    const use *x = a, *y = b;
    if (x->n != y->n) return x->n < y->n ? 1 : -1;
    return x->expert < y->expert ? -1 : 1;
}

static ml_status print_usage(const ml_talk *c, const ml_routing_trace *t, int64_t from, int64_t to, int64_t layer,
                             ml_error *err)
{
    use *uses = ml_calloc((size_t)t->n_expert, sizeof *uses);
    if (!uses) return ml_fail_memory(err, (size_t)t->n_expert * sizeof *uses, "the use of experts");
    for (int64_t e = 0; e < t->n_expert; e++) uses[e].expert = (int32_t)e;
    for (int64_t i = from; i < to; i++) {
        const int32_t *chosen = t->expert + (i * t->n_layer + layer) * t->top_k;
        for (int64_t k = 0; k < t->top_k; k++) uses[chosen[k]].n++;
    }
    qsort(uses, (size_t)t->n_expert, sizeof *uses, by_use);
    double total = (double)((to - from) * t->top_k);
    int64_t n_used = 0;
    while (n_used < t->n_expert && uses[n_used].n) n_used++;
    for (int64_t i = 0; i < n_used && i < MOST_BARS; i++) {
        print_bar(c, uses[i].expert, (double)uses[i].n / total, (double)uses[0].n / total);
    }
    if (n_used > MOST_BARS) printf("  and %lld more\n", (long long)(n_used - MOST_BARS));
    if (n_used < t->n_expert)
        printf("  %lld of %lld not chosen\n", (long long)(t->n_expert - n_used), (long long)t->n_expert);
    ml_free(uses);
    return ML_OK;
}

static double mean_of(const float *values, const ml_routing_trace *t, int64_t from, int64_t to, int64_t layer)
{
    double sum = 0;
    for (int64_t i = from; i < to; i++) sum += (double)values[i * t->n_layer + layer];
    return sum / (double)(to - from);
}

static ml_status show(const ml_talk *c, const ml_routing_trace *t, int64_t layer, ml_error *err)
{
    int64_t from = c->n_heard_prompt, to = (int64_t)c->heard.n, last = t->first_layer + t->n_layer - 1;
    int64_t row = layer < 0 ? 0 : layer - t->first_layer;
    if (row < 0 || row >= t->n_layer) {
        return ml_fail(err, ML_EINVAL, "layer %lld has no experts: expected one from %lld to %lld", (long long)layer,
                       (long long)t->first_layer, (long long)last);
    }
    printf("layer %lld of %lld to %lld: %lld tokens, %lld of %lld experts each, mean entropy %.3f nats, mean margin "
           "%.3g\n",
           (long long)(t->first_layer + row), (long long)t->first_layer, (long long)last, (long long)(to - from),
           (long long)t->top_k, (long long)t->n_expert, mean_of(t->entropy, t, from, to, row),
           mean_of(t->margin, t, from, to, row));
    ML_TRY(print_tokens(c, t, c->heard.id, from, to, row, err));
    ML_TRY(print_usage(c, t, from, to, row, err));
    return fflush(stdout) == 0 ? ML_OK : ml_fail(err, ML_EIO, "standard output could not be written");
}

ml_status ml_talk_trace(ml_talk *c, int64_t layer, ml_error *err)
{
    ml_routing_trace trace = { 0 };
    if ((int64_t)c->heard.n <= c->n_heard_prompt) return ml_fail(err, ML_EINVAL, "there is no answer yet");
    if (ml_model_get_info(c->m.model).n_expert == 0) return ml_fail(err, ML_EINVAL, "this model has no experts");
    ml_status status = ml_routing_trace_make(&trace, c->m.model, (int64_t)c->heard.n + 1, err);
    if (status == ML_OK) status = read_again(c, c->heard.id, (int64_t)c->heard.n, &trace, err);
    if (status == ML_OK) status = show(c, &trace, layer, err);
    ml_routing_trace_free(&trace);
    return status;
}
