/* What the engine does for a server: prompts that share pages, turns of clients, listeners, routing traces. */
#include "infer/engine.h"

#include "base/thread.h"
#include "infer/generate.h"
#include "infer/prefix.h"
#include "infer/session.h"
#include "support/question.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { CONTEXT = TEST_MAX_PROMPT, MAX_ANSWER = TEST_MAX_ANSWER, N_PROMPT = 8, PAGE = 16 };

/* The first `n_same` tokens of all are the same; `salt` makes others. */
static void make_questions(test_question *q, int64_t n_same, uint64_t salt)
{
    for (int i = 0; i < N_PROMPT; i++) {
        ml_rng rng = ml_rng_make(17 + salt, 0), own = ml_rng_make(18 + salt, (uint64_t)i);
        q[i] = (test_question){ .n_prompt = 100 + 20 * i, .max_tokens = MAX_ANSWER, .sampling = ml_sampling_default() };
        for (int64_t k = 0; k < q[i].n_prompt; k++) {
            q[i].prompt[k] = (int32_t)ml_rng_below(k < n_same ? &rng : &own, TEST_VOCAB);
        }
        q[i].sampling.temperature = i % 3 ? 0.9 : 0;
        q[i].sampling.seed = (uint64_t)i;
    }
}

static ml_engine *make_engine(ml_model *m, int64_t n_slot, int64_t chunk, int64_t cache_token)
{
    ml_engine_config config = { .n_slot = n_slot,
                                .capacity = CONTEXT,
                                .chunk = chunk,
                                .cache_token = cache_token,
                                .n_valid = TEST_VOCAB,
                                .kv_dtype = ML_SESSION_KV,
                                .reuse = true };
    ml_engine *e;
    assert_ok(ml_engine_make(m, &config, &e, &err));
    return e;
}

static void submit_all(ml_engine *e, test_question *q)
{
    for (int i = 0; i < N_PROMPT; i++) {
        ml_request request = test_question_request(&q[i]);
        assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
        if (i == 3) assert_ok(ml_engine_step(e, &err));
    }
}

static void test_shared_beginnings_change_no_answer(void **state)
{
    (void)state;
    static const test_model models[] = { TEST_GQA_MOE, TEST_MLA_MOE };
    /* slots, prompt tokens of a pass, tokens of the cache: the last two cannot keep all that was read */
    static const int64_t settings[][3] = { { 1, 512, 0 }, { 8, 70, 0 }, { 4, 33, 900 }, { 8, 512, 640 } };
    for (size_t which = 0; which < 2; which++) {
        ml_model *m = test_model_make_sharp(models[which], CONTEXT);
        test_question q[N_PROMPT], alone[2][N_PROMPT];
        for (uint64_t salt = 0; salt < 2; salt++) {
            make_questions(q, 150, salt);
            for (int i = 0; i < N_PROMPT; i++) test_question_answer_alone(m, &q[i], &alone[salt][i]);
        }
        for (size_t k = 0; k < sizeof settings / sizeof settings[0]; k++) {
            ml_engine *e = make_engine(m, settings[k][0], settings[k][1], settings[k][2]);
            for (int round = 0; round < 4; round++) { /* the same again, then others, then the first */
                uint64_t salt = round == 2;
                make_questions(q, 150, salt);
                submit_all(e, q);
                test_engine_run(e);
                for (int i = 0; i < N_PROMPT; i++) test_question_assert_same(&q[i], &alone[salt][i]);
            }
            ml_engine_stats s = ml_engine_get_stats(e);
            assert_int_equal(s.n_free_page + s.n_kept_page, s.n_page);
            assert_true(s.n_reused_token > 0);
            ml_engine_free(e);
        }
        ml_model_free(m);
    }
}

static void test_a_prompt_is_computed_once(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_GQA_MOE, CONTEXT);
    ml_engine *e = make_engine(m, N_PROMPT, 50, 0);
    test_question q[N_PROMPT];
    make_questions(q, 0, 0);
    for (int i = 0; i < N_PROMPT; i++) { /* eight times the same one, of 220 tokens, at once */
        if (i) q[i] = q[0];
        q[i].n_prompt = 220;
        q[i].sampling.seed = (uint64_t)i;
        for (int64_t k = 0; k < q[i].n_prompt; k++) q[i].prompt[k] = (int32_t)(k * k % 61);
    }
    submit_all(e, q);
    test_engine_run(e);
    int64_t rest = 220 % PAGE; /* what is no full page is everybody's own */
    assert_int_equal(ml_engine_get_stats(e).n_prompt_token, 220 + (N_PROMPT - 1) * rest);
    for (int i = 1; i < N_PROMPT; i++) assert_int_equal(q[i].stats.n_reused, 220 - rest);
    /* One that ends with a full page still computes it, for the logits of its last token. */
    test_question last = q[0];
    last.n_prompt = 3 * PAGE;
    last.n_answer = last.n_end = 0;
    ml_request request = test_question_request(&last);
    assert_ok(ml_engine_submit(e, &request, &last.id, &err));
    test_engine_run(e);
    assert_int_equal(last.stats.n_reused, 2 * PAGE);
    ml_engine_free(e);
    ml_model_free(m);
}

static void test_without_the_cache_the_answer_is_the_same(void **state)
{
    (void)state;
    static const test_model models[] = { TEST_GQA_MOE, TEST_MLA_MOE };
    for (size_t which = 0; which < 2; which++) {
        ml_model *m = test_model_make_sharp(models[which], CONTEXT);
        ml_engine *e = make_engine(m, 3, 47, 0);
        test_question q[N_PROMPT], alone[N_PROMPT];
        make_questions(q, 70, 0);
        for (int i = 0; i < N_PROMPT; i++) {
            test_question_answer_alone(m, &q[i], &alone[i]);
            ml_request request = test_question_request(&q[i]);
            request.no_cache = i % 2;
            assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
        }
        test_engine_run(e);
        for (int i = 0; i < N_PROMPT; i++) test_question_assert_same(&q[i], &alone[i]);
        ml_engine_free(e);
        ml_model_free(m);
    }
}

static void test_turns_of_clients(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_DENSE, CONTEXT);
    ml_engine *e = make_engine(m, 2, 512, 0);
    test_question q[N_PROMPT];
    make_questions(q, 0, 0);
    test_n_ended = 0;
    for (int i = 0; i < N_PROMPT; i++) { /* all of one client but the last */
        q[i].n_prompt = 70;
        ml_request request = test_question_request(&q[i]);
        request.client = i == N_PROMPT - 1 ? 2 : 1;
        assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
    }
    test_engine_run(e);
    assert_true(q[N_PROMPT - 1].turn <= 1);
    for (int i = 2; i < N_PROMPT - 1; i++) assert_true(q[i].turn > q[i - 1].turn);
    ml_engine_free(e);
    ml_model_free(m);
}

static void test_a_long_prompt_lets_short_ones_pass(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_MLA_MOE, CONTEXT);
    ml_engine *e = make_engine(m, 3, 128, 0);
    test_question q[N_PROMPT];
    make_questions(q, 0, 0);
    q[0].n_prompt = 390;
    q[1].n_prompt = q[2].n_prompt = 20;
    for (int64_t k = 0; k < q[0].n_prompt; k++) q[0].prompt[k] = (int32_t)(k * 7 % 61);
    /* Read after each pass: the long one has its piece, its next one, then it is the turn of those who came meanwhile,
     * and it gets what they leave. */
    static const int64_t n_read[] = { 128, 256, 384, 430 };
    for (int pass = 0; pass < 4; pass++) {
        for (int i = pass == 1; i < (pass == 0 ? 1 : pass == 1 ? 3 : 0); i++) {
            ml_request request = test_question_request(&q[i]);
            assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
        }
        assert_ok(ml_engine_step(e, &err));
        assert_int_equal(ml_engine_get_stats(e).n_prompt_token, n_read[pass]);
        assert_int_equal(q[0].n_answer, pass == 3);
        for (int i = 1; i < 3; i++) assert_int_equal(q[i].n_answer, pass < 2 ? 0 : pass - 1);
    }
    ml_engine_free(e);
    ml_model_free(m);
}

/* Who is being answered gets a token in every pass while a long prompt is read beside it, in pieces of the chunk. */
static void test_a_long_prompt_stalls_no_answer(void **state)
{
    (void)state;
    enum { CHUNK = 32, LONG = 390, N_ANSWERED = 2 };
    ml_model *m = test_model_make_sharp(TEST_MLA_MOE, CONTEXT);
    ml_engine *e = make_engine(m, N_ANSWERED + 1, CHUNK, 0);
    test_question q[N_PROMPT];
    make_questions(q, 0, 0);
    for (int i = 0; i < N_ANSWERED; i++) {
        q[i].n_prompt = 10;
        q[i].n_stop = 0;
        ml_request request = test_question_request(&q[i]);
        assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
    }
    assert_ok(ml_engine_step(e, &err));
    test_question *last = &q[N_ANSWERED];
    last->n_prompt = LONG;
    for (int64_t k = 0; k < LONG; k++) last->prompt[k] = (int32_t)(k * 7 % 61);
    ml_request request = test_question_request(last);
    assert_ok(ml_engine_submit(e, &request, &last->id, &err));
    for (int pass = 1; pass <= (LONG + CHUNK - 1) / CHUNK; pass++) {
        assert_int_equal(last->n_answer, 0);
        assert_ok(ml_engine_step(e, &err));
        for (int i = 0; i < N_ANSWERED; i++) assert_int_equal(q[i].n_answer, 1 + pass);
        int64_t read = pass * CHUNK < LONG ? pass * CHUNK : LONG;
        assert_int_equal(ml_engine_get_stats(e).n_prompt_token, 10 * N_ANSWERED + read);
    }
    assert_int_equal(last->n_answer, 1);
    ml_engine_free(e);
    ml_model_free(m);
}

/* ---- listeners ---- */

typedef struct {
    int64_t n_logits, n_hidden;
    float logits[CONTEXT][TEST_VOCAB], hidden[CONTEXT][32];
} listener;

static void take_logits(void *arg, int64_t pos, const float *logits)
{
    listener *l = arg;
    assert_int_equal(pos, l->n_logits);
    memcpy(l->logits[l->n_logits++], logits, sizeof l->logits[0]);
}

static void take_hidden(void *arg, int64_t pos, const float *hidden)
{
    listener *l = arg;
    assert_int_equal(pos, l->n_hidden);
    memcpy(l->hidden[l->n_hidden++], hidden, sizeof l->hidden[0]);
}

static void test_prompts_can_be_listened_to(void **state)
{
    (void)state;
    static listener l;
    ml_model *m = test_model_make_sharp(TEST_MLA_MOE, CONTEXT);
    ml_engine *e = make_engine(m, 3, 50, 0);
    test_question q[N_PROMPT];
    make_questions(q, 100, 0);
    submit_all(e, q); /* a crowd around it, and pages of its beginning in the store */
    for (int i = 0; i < 5; i++) assert_ok(ml_engine_step(e, &err));
    ml_request request = { .prompt = q[3].prompt,
                           .n_prompt = q[3].n_prompt,
                           .sampling = ml_sampling_default(),
                           .on_prompt_logits = take_logits,
                           .on_prompt_hidden = take_hidden,
                           .arg = &l };
    int64_t id;
    assert_ok(ml_engine_submit(e, &request, &id, &err));
    test_engine_run(e);
    assert_int_equal(l.n_logits, q[3].n_prompt);
    assert_int_equal(l.n_hidden, q[3].n_prompt);
    ml_session *s;
    assert_ok(ml_session_make(m, CONTEXT, true, &s, &err));
    for (int64_t t = 0; t < q[3].n_prompt; t++) {
        assert_ok(ml_session_append(s, q[3].prompt + t, 1, &err));
        assert_memory_equal(l.logits[t], ml_session_logits(s), sizeof l.logits[0]);
        for (int64_t v = 0; v < TEST_VOCAB; v++) { /* logits are the head's rows times the hidden state */
            double sum = 0, size = 0;
            const float *row = ml_f32(&m->head) + v * 32;
            for (int k = 0; k < 32; k++) sum += (double)row[k] * (double)l.hidden[t][k];
            for (int k = 0; k < 32; k++) size += fabs((double)row[k] * (double)l.hidden[t][k]);
            assert_true(fabs(sum - (double)l.logits[t][v]) <= 1e-5 * size); /* 32 roundings of fp32 */
        }
    }
    ml_session_free(s);
    ml_engine_free(e);
    ml_model_free(m);
}

/* ---- constraints ---- */

static bool only_even(void *arg, const int32_t *answer, int64_t n, float *logits)
{
    (void)arg;
    for (int64_t i = 0; i < n; i++) assert_int_equal(answer[i] % 2, 0);
    for (int i = 1; i < TEST_VOCAB; i += 2) logits[i] = -INFINITY;
    return n < 7;
}

static void test_choices_can_be_adjusted(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_GQA_MOE, CONTEXT);
    ml_engine *e = make_engine(m, 4, 512, 0);
    test_question q[N_PROMPT], alone;
    make_questions(q, 0, 0);
    for (int i = 0; i < 4; i++) {
        ml_request request = test_question_request(&q[i]);
        if (i != 2) request.adjust = only_even;
        assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
    }
    test_engine_run(e);
    for (int i = 0; i < 4; i++) {
        if (i == 2) continue;
        assert_int_equal(q[i].n_answer, 7);
        assert_int_equal(q[i].finish, ML_FINISH_STOP);
        for (int k = 0; k < 7; k++) assert_true(q[i].logprob[k] < 0); /* of what the model gave */
    }
    test_question fresh[N_PROMPT];
    make_questions(fresh, 0, 0);
    test_question_answer_alone(m, &fresh[2], &alone);
    test_question_assert_same(&q[2], &alone);
    ml_engine_free(e);
    ml_model_free(m);
}

/* ---- routing ---- */

/* Routing of a whole text in one pass of the training kind. */
typedef struct {
    int64_t n;
    ml_config config;
    const ml_routing_trace *trace;
    const ml_model *model;
} expectation;

static void check_routing(void *arg, int64_t layer, const ml_routing *routing)
{
    const expectation *x = arg;
    const ml_routing_trace *t = x->trace;
    int64_t n_expert = x->config.n_routed_experts, top_k = x->config.num_experts_per_tok;
    for (int64_t row = 0; row < x->n; row++) {
        int64_t place = row * t->n_layer + layer - t->first_layer;
        double score[8], sum = 0, entropy = 0, last = INFINITY, next = -INFINITY;
        for (int64_t e = 0; e < n_expert; e++) sum += exp((double)ml_f32(routing->logit)[row * n_expert + e]);
        for (int64_t e = 0; e < n_expert; e++) {
            double z = (double)ml_f32(routing->logit)[row * n_expert + e], p = exp(z) / sum;
            entropy -= p * log(p);
            score[e] = x->config.scoring == ML_SCORE_SIGMOID ? 1 / (1 + exp(-z)) : p;
            if (ml_f32(&x->model->layer[layer].router_bias)) {
                score[e] += (double)ml_f32(&x->model->layer[layer].router_bias)[e];
            }
        }
        for (int64_t k = 0; k < top_k; k++) {
            int32_t id = t->expert[place * top_k + k];
            assert_int_equal(id, ml_i32(routing->id)[row * top_k + k]);
            assert_true(fabs((double)t->weight[place * top_k + k] - (double)ml_f32(routing->prob)[row * top_k + k]) <
                        2e-3); /* keys and values of the cache are f16 */
            last = fmin(last, score[id]);
            score[id] = -INFINITY;
        }
        for (int64_t e = 0; e < n_expert; e++) next = fmax(next, score[e]);
        assert_true(fabs((double)t->margin[place] - (last - next)) < 2e-3);
        assert_true(fabs((double)t->entropy[place] - entropy) < 5e-3);
    }
}

static void test_routing_is_traced(void **state)
{
    (void)state;
    static const test_model models[] = { TEST_GQA_MOE, TEST_GQA_SIGMOID, TEST_MLA_MOE };
    for (size_t which = 0; which < 3; which++) {
        ml_model *m = test_model_make_sharp(models[which], CONTEXT);
        if (ml_f32(&m->layer[1].router_bias)) ml_f32(&m->layer[1].router_bias)[2] = 0.05f;
        ml_engine *e = make_engine(m, 3, 50, 0);
        test_question q[N_PROMPT], alone;
        make_questions(q, 0, 0);
        test_question_answer_alone(m, &q[1], &alone);
        ml_routing_trace t;
        assert_ok(ml_routing_trace_make(&t, m, q[1].n_prompt + MAX_ANSWER, &err));
        for (int i = 0; i < 4; i++) {
            ml_request request = test_question_request(&q[i]);
            if (i == 1) request.trace = &t;
            assert_ok(ml_engine_submit(e, &request, &q[i].id, &err));
        }
        test_engine_run(e);
        test_question_assert_same(&q[1], &alone); /* being watched changes nothing */
        int32_t id[CONTEXT], pos[CONTEXT];
        int64_t n = q[1].n_prompt + q[1].n_answer - 1, two = 2;
        memcpy(id, q[1].prompt, (size_t)q[1].n_prompt * sizeof *id);
        memcpy(id + q[1].n_prompt, q[1].answer, (size_t)q[1].n_answer * sizeof *id);
        for (int32_t i = 0; i < n; i++) pos[i] = i;
        ml_ctx ctx;
        assert_ok(ml_ctx_init(&ctx, 64 << 20, 0, &err));
        expectation x = { n, m->config, &t, m };
        const ml_routing_observer observer = { &x, check_routing };
        ml_model_input in = { .id = ml_tensor_wrap(&ctx, ML_I32, 1, &n, id),
                              .pos = ml_tensor_wrap(&ctx, ML_I32, 1, &n, pos),
                              .seq = ml_tensor_wrap(&ctx, ML_I32, 1, &two, (int32_t[]){ 0, (int32_t)n }),
                              .observer = &observer };
        assert_non_null(ml_model_forward(&ctx, m, &in));
        ml_ctx_free(&ctx);
        ml_routing_trace_free(&t);
        ml_engine_free(e);
        ml_model_free(m);
    }
}

/* ---- the store ---- */

static void test_the_least_recently_used_goes_first(void **state)
{
    (void)state;
    ml_pages pages;
    ml_prefix p;
    assert_ok(ml_pages_make(&pages, 6, 2, 3, 8, &err));
    assert_ok(ml_prefix_make(&p, &pages, &err));
    static const int32_t ids[] = { 1, 2, 3, 4, 5, 6 };
    assert_true(ml_pages_reserve(&pages, 0, 6));
    int32_t a = pages.table[0], b = pages.table[1], c = pages.table[2];
    ml_prefix_add(&p, ML_PREFIX_ROOT, NULL, ids, a);
    ml_prefix_add(&p, a, NULL, ids + 2, b);
    ml_prefix_add(&p, ML_PREFIX_ROOT, NULL, ids + 4, c);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, NULL, ids), a);
    assert_int_equal(ml_prefix_find(&p, a, NULL, ids + 2), b);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, NULL, ids + 2), ML_PREFIX_NONE);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, &p, ids), ML_PREFIX_NONE); /* through another adapter */
    ml_prefix_evict(&p, 6);                                                        /* all are somebody's */
    assert_int_equal(p.n_node, 3);
    ml_pages_truncate(&pages, 0, 0);
    assert_int_equal(pages.n_free, 3);
    ml_prefix_evict(&p, 4); /* c was used before b; a is no leaf */
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, NULL, ids + 4), ML_PREFIX_NONE);
    assert_int_equal(ml_prefix_find(&p, a, NULL, ids + 2), b);
    ml_prefix_evict(&p, 5);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, NULL, ids), a);
    /* An adapter goes, with all that it computed, held or not, and nothing else. */
    assert_true(ml_pages_reserve(&pages, 0, 6));
    int32_t x = pages.table[0], y = pages.table[1], z = pages.table[2];
    ml_prefix_add(&p, ML_PREFIX_ROOT, &p, ids, x);
    ml_prefix_add(&p, x, &p, ids + 2, y);
    ml_prefix_add(&p, ML_PREFIX_ROOT, &pages, ids, z);
    ml_prefix_forget(&p, &p);
    assert_int_equal(p.n_node, 2);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, &p, ids), ML_PREFIX_NONE);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, &pages, ids), z);
    assert_int_equal(ml_prefix_find(&p, ML_PREFIX_ROOT, NULL, ids), a);
    ml_pages_truncate(&pages, 0, 0);
    assert_int_equal(pages.n_free, 4);
    ml_prefix_evict(&p, 6);
    assert_int_equal(p.n_node, 0);
    assert_int_equal(pages.n_free, 6);
    ml_prefix_free(&p);
    ml_pages_free(&pages);
}

int main(void)
{
    ml_thread_set_count(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_beginnings_change_no_answer),
        cmocka_unit_test(test_a_prompt_is_computed_once),
        cmocka_unit_test(test_without_the_cache_the_answer_is_the_same),
        cmocka_unit_test(test_turns_of_clients),
        cmocka_unit_test(test_a_long_prompt_lets_short_ones_pass),
        cmocka_unit_test(test_a_long_prompt_stalls_no_answer),
        cmocka_unit_test(test_prompts_can_be_listened_to),
        cmocka_unit_test(test_choices_can_be_adjusted),
        cmocka_unit_test(test_routing_is_traced),
        cmocka_unit_test(test_the_least_recently_used_goes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
