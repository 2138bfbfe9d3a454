/* What a pass of the engine computes. */
#include "infer/engine_internal.h"

#include "base/clock.h"

#include <string.h>

enum {
    FEWEST_PROMPT_TOKENS = 64, /* fewer read nearly all experts for little, and say nothing about the rate of more */
    SHORTEST_PIECE = 128,
};

/* Whether its prompt is in the cache. */
static bool is_read(const ml_job *j)
{
    return j->n_cached >= j->request.n_prompt;
}

static void push_token(ml_engine *e, int64_t slot, int64_t pos)
{
    e->id[e->n] = e->slot[slot]->token[pos];
    e->pos[e->n] = (int32_t)pos;
    e->seq[e->n++] = (int32_t)slot;
}

/* The next token is wanted when the last one that there is has been run. */
static void want_last(ml_engine *e, int64_t slot)
{
    const ml_job *j = e->slot[slot];
    if (j->n_cached < j->n_token || (j->limit == j->request.n_prompt && j->request.max_tokens == 0)) return;
    e->want[e->n_want] = (int32_t)e->n - 1;
    e->want_slot[e->n_want++] = slot;
}

/* Tokens being generated: one of each answer, or with no_cache those so far, of which `extra` may be beyond the first.
 * How many answers. */
static int64_t gather_generated(ml_engine *e, int64_t *extra)
{
    int64_t n_generating = 0;
    for (int64_t i = 0; i < e->n_order; i++) {
        int64_t slot = e->order[i];
        ml_job *j = e->slot[slot];
        if (!is_read(j) || j->n_cached == j->n_token) continue;
        n_generating++;
        push_token(e, slot, j->n_cached++);
        while (*extra > 0 && j->n_cached < j->n_token) {
            push_token(e, slot, j->n_cached++);
            --*extra;
        }
        want_last(e, slot);
    }
    return n_generating;
}

/* How many prompt tokens the pass may take, `left` at most: as many as take pass_seconds while answers wait for their
 * next token, and longer in proportion when more requests wait for their first one. */
static int64_t prompt_budget(const ml_engine *e, int64_t n_generating, int64_t n_reader, int64_t left)
{
    if (n_generating == 0 || e->config.pass_seconds <= 0 || e->prompt_rate <= 0) return left;
    double seconds = e->config.pass_seconds;
    if (n_reader > n_generating) seconds *= (double)n_reader / (double)n_generating;
    int64_t n = (int64_t)(e->prompt_rate * seconds);
    if (n < FEWEST_PROMPT_TOKENS) n = FEWEST_PROMPT_TOKENS;
    return n < left ? n : left;
}

/* Whose turn it is: of the prompts that have tokens left, the one whose last piece is longest ago. */
static ml_job *next_reader(const ml_engine *e)
{
    ml_job *next = NULL;
    for (int64_t i = 0; i < e->n_order; i++) {
        ml_job *j = e->slot[e->order[i]];
        if (is_read(j) || j->waits || j->n_cached + j->share == j->request.n_prompt) continue;
        if (!next || j->turn < next->turn) next = j;
    }
    return next;
}

/* Prompt tokens of each slot in this pass, in turns.  A piece is as long as what its prompt has read already, since
 * latent attention makes keys and values of all of that again for every piece, and no shorter than SHORTEST_PIECE: many
 * small ones would read the weights of the experts as often.  Who got next to nothing of a pass goes on in the next. */
static void share_out(ml_engine *e, int64_t left)
{
    ml_job *j;
    while (left > 0 && (j = next_reader(e))) {
        int64_t n = j->n_cached + j->share, rest = j->request.n_prompt - n;
        if (n < SHORTEST_PIECE) n = SHORTEST_PIECE;
        if (n > rest) n = rest;
        if (n <= left || left >= FEWEST_PROMPT_TOKENS) j->turn = ++e->turn;
        if (n > left) n = left;
        j->share += n;
        left -= n;
    }
}

static void gather_prompts(ml_engine *e, int64_t n_generating, int64_t left)
{
    int64_t n_reader = 0;
    for (int64_t i = 0; i < e->n_order; i++) {
        int64_t slot = e->order[i];
        ml_job *j = e->slot[slot];
        j->share = 0;
        if (is_read(j)) continue;
        ml_engine_take_shared(e, slot);
        j->waits = ml_engine_must_wait(e, i);
        n_reader += !j->waits;
    }
    share_out(e, prompt_budget(e, n_generating, n_reader, left));
    for (int64_t i = 0; i < e->n_order; i++) {
        int64_t slot = e->order[i];
        ml_job *j = e->slot[slot];
        if (j->share == 0) continue;
        for (int64_t k = 0; k < j->share; k++) push_token(e, slot, j->n_cached++);
        if (is_read(j)) want_last(e, slot);
    }
}

/* Tokens of the pass: generated ones, then prompts.  How many are generated. */
static int64_t gather(ml_engine *e)
{
    e->n = e->n_want = 0;
    int64_t left = e->config.chunk, n_generating = gather_generated(e, &left), n_decode = e->n;
    gather_prompts(e, n_generating, left);
    return n_decode;
}

/* ---- what comes out ---- */

static void take_routing(void *arg, int64_t layer, const ml_routing *routing)
{
    ml_engine *e = arg;
    for (int64_t i = 0; i < e->n; i++) {
        ml_routing_trace *t = e->slot[e->seq[i]]->request.trace;
        if (t) ml_routing_trace_put(t, e->pos[i], layer, routing, i);
    }
}

/* Tell of the routing only where somebody in the pass wants it. */
static void observe_routing(ml_engine *e)
{
    bool wanted = false;
    for (int64_t i = 0; i < e->n_order; i++) wanted = wanted || e->slot[e->order[i]]->request.trace;
    e->observer = (ml_routing_observer){ e, take_routing };
    ml_runner_observe(e->runner, wanted ? &e->observer : NULL);
}

/* Logits of prompt tokens from row `from` on, n_slot at most, for those who listen; *next: where to go on. */
static ml_status tell_logits(ml_engine *e, int64_t from, int64_t *next, ml_error *err)
{
    int64_t n_vocab = e->model->config.vocab_size, n = 0, i = from;
    for (; i < e->n && n < e->config.n_slot; i++) {
        if (e->slot[e->seq[i]]->request.on_prompt_logits) e->row[n++] = (int32_t)i;
    }
    *next = i;
    ML_TRY(ml_runner_logits(e->runner, n, e->row, e->logits, err));
    for (int64_t r = 0; r < n; r++) {
        const ml_request *q = &e->slot[e->seq[e->row[r]]]->request;
        q->on_prompt_logits(q->arg, e->pos[e->row[r]], e->logits + r * n_vocab);
    }
    return ML_OK;
}

/* What this pass found about prompt tokens, for those who listen. */
static ml_status tell_prompts(ml_engine *e, int64_t n_decode, ml_error *err)
{
    for (int64_t i = n_decode; i < e->n; i++) {
        const ml_request *q = &e->slot[e->seq[i]]->request;
        if (!q->on_prompt_hidden) continue;
        const float *hidden;
        ML_TRY(ml_runner_hidden(e->runner, i, &hidden, err));
        q->on_prompt_hidden(q->arg, e->pos[i], hidden);
    }
    for (int64_t i = n_decode; i < e->n;) ML_TRY(tell_logits(e, i, &i, err));
    return ML_OK;
}

static bool is_stop(const ml_job *j, int32_t id)
{
    for (int64_t i = 0; i < j->request.n_stop; i++) {
        if (j->stop_id[i] == id) return true;
    }
    return false;
}

/* The next token of a sequence whose logits are there; false: the answer has ended without one. */
static bool choose_id(ml_engine *e, ml_job *j, const float *logits, int32_t *id, double *logprob)
{
    const ml_request *q = &j->request;
    if (!q->adjust) {
        *id = ml_sampler_choose(j->sampler, logits, j->token, j->n_token, logprob);
        return true;
    }
    memcpy(e->adjusted, logits, (size_t)e->model->config.vocab_size * sizeof *logits);
    if (!q->adjust(q->arg, j->token + q->n_prompt, j->n_token - q->n_prompt, e->adjusted)) return false;
    *id = ml_sampler_choose(j->sampler, e->adjusted, j->token, j->n_token, NULL);
    *logprob = ml_logits_logprob(logits, e->config.n_valid, *id);
    return true;
}

/* The next token is there; logits: NULL, or those it was chosen from. */
static void take_choice(ml_engine *e, int64_t slot, const float *logits, int32_t id, double logprob)
{
    ml_job *j = e->slot[slot];
    const ml_request *q = &j->request;
    j->token[j->n_token++] = id;
    if (q->on_logits) q->on_logits(q->arg, logits, id);
    bool go_on = !q->on_token || q->on_token(q->arg, id, logprob);
    if (!go_on) {
        ml_engine_leave_slot(e, slot, ML_FINISH_CANCEL);
    } else if (is_stop(j, id)) {
        ml_engine_leave_slot(e, slot, ML_FINISH_STOP);
    } else if (j->n_token == j->limit) {
        ml_engine_leave_slot(e, slot, ML_FINISH_LENGTH);
    } else if (q->no_cache) {
        j->n_cached = 0;
    }
}

static void choose(ml_engine *e, int64_t slot, const float *logits)
{
    int32_t id;
    double logprob;
    if (choose_id(e, e->slot[slot], logits, &id, &logprob)) {
        take_choice(e, slot, logits, id, logprob);
    } else {
        ml_engine_leave_slot(e, slot, ML_FINISH_STOP);
    }
}

/* Whether the model's device draws a request's tokens: unless somebody here reads or changes the logits. */
static bool draws_there(const ml_engine *e, const ml_job *j)
{
    return e->model->device && !j->request.adjust && !j->request.on_logits;
}

/* Draw the tokens of those rows. */
static ml_status draw_there(ml_engine *e, ml_error *err)
{
    int64_t n = 0, n_late = 0;
    for (int64_t i = 0; i < e->n_want; i++) {
        ml_job *j = e->slot[e->want_slot[i]];
        if (!draws_there(e, j)) continue;
        int64_t most = n_late + ml_sampler_most_penalised(j->sampler, j->n_token);
        ML_TRY(ml_grow((void **)&e->late, &e->late_capacity, (size_t)most, sizeof *e->late, err));
        ml_sample_row *d = &e->draw[n++];
        *d = (ml_sample_row){ .row = e->want[i],
                              .rule = ml_sampler_get_rule(j->sampler),
                              .random = ml_sampler_next_random(j->sampler),
                              .first_penalised = n_late,
                              .penalty = ml_sampler_get_penalty(j->sampler) };
        if (most > n_late) {
            d->n_penalised = ml_sampler_list_penalised(j->sampler, j->token, j->n_token, e->late + n_late);
        }
        n_late += d->n_penalised;
    }
    int64_t n_vocab = e->model->config.vocab_size, n_valid = e->config.n_valid < n_vocab ? e->config.n_valid : n_vocab;
    return ml_runner_sample(e->runner, n_valid, e->draw, n, e->late, n_late, e->drawn, err);
}

/* Logits of the other rows. */
static ml_status fetch_logits(ml_engine *e, ml_error *err)
{
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_want; i++) {
        if (!draws_there(e, e->slot[e->want_slot[i]])) e->row[n++] = e->want[i];
    }
    return ml_runner_logits(e->runner, n, e->row, e->logits, err);
}

/* The next token of all that want one. */
static void choose_all(ml_engine *e)
{
    const ml_sample_choice *drawn = e->drawn;
    const float *logits = e->logits;
    for (int64_t i = 0; i < e->n_want; i++) {
        ml_job *j = e->slot[e->want_slot[i]];
        if (j->read <= 0) j->read = ml_clock_seconds();
        if (draws_there(e, j)) {
            take_choice(e, e->want_slot[i], NULL, drawn->id, drawn->logprob);
            drawn++;
        } else {
            choose(e, e->want_slot[i], logits);
            logits += e->model->config.vocab_size;
        }
    }
}

/* After a pass: pages for the store, and the end of those who only wanted their prompt read. */
static void finish_prompts(ml_engine *e)
{
    for (int64_t i = e->n_order; i-- > 0;) {
        int64_t slot = e->order[i];
        ml_job *j = e->slot[slot];
        ml_engine_give_shared(e, slot);
        if (j->request.max_tokens == 0 && is_read(j)) ml_engine_leave_slot(e, slot, ML_FINISH_LENGTH);
    }
}

static void count(ml_engine *e, int64_t n_decode, double seconds)
{
    int64_t n_prompt = e->n - n_decode;
    e->stats.n_pass++;
    e->stats.n_decode_token += n_decode;
    e->stats.n_prompt_token += n_prompt;
    if (n_prompt == 0) e->decode_seconds = seconds;
    if (n_prompt < FEWEST_PROMPT_TOKENS || seconds <= 0) return;
    double decode = n_decode == 0 ? 0 : e->decode_seconds < 0.5 * seconds ? e->decode_seconds : 0.5 * seconds;
    double rate = (double)n_prompt / (seconds - decode);
    e->prompt_rate = e->prompt_rate > 0 ? 0.5 * (e->prompt_rate + rate) : rate;
}

ml_status ml_engine_step(ml_engine *e, ml_error *err)
{
    ml_engine_end_cancelled(e);
    ML_TRY(ml_engine_fill_slots(e, err));
    if (e->n_order == 0) return ML_OK;
    int64_t n_decode = gather(e);
    double start = ml_clock_seconds();
    observe_routing(e);
    ML_TRY(ml_runner_forward(e->runner, e->n, n_decode, e->id, e->pos, e->seq, err));
    ML_TRY(tell_prompts(e, n_decode, err));
    ML_TRY(draw_there(e, err));
    ML_TRY(fetch_logits(e, err));
    count(e, n_decode, ml_clock_seconds() - start);
    finish_prompts(e);
    choose_all(e);
    return ML_OK;
}
