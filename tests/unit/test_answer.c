/* Answers to many prompts: each is what it is alone, with its own seed. */
#include "infer/answer.h"

#include "support/support.h"
#include "support/tiny_run.h"

#include <string.h>

static ml_error err;

enum { N = 7 };

static void make_items(ml_answer *item)
{
    memset(item, 0, N * sizeof *item);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k <= i % 4; k++) {
            int32_t id = (i * 7 + k * 3) % TEST_VOCAB;
            assert_ok(ml_ids_append(&item[i].prompt, &id, 1, &err));
        }
    }
}

static void free_items(ml_answer *item)
{
    for (int i = 0; i < N; i++) {
        ml_ids_free(&item[i].prompt);
        ml_ids_free(&item[i].answer);
    }
}

static void test_answers_do_not_depend_on_the_crowd(void **state)
{
    (void)state;
    ml_config config = test_model_config(TEST_GQA_MOE);
    ml_model *m;
    ml_answer many[N], one[N];
    static const int32_t stop = 3;
    ml_answer_config c = { .sampling = ml_sampling_default(),
                           .max_tokens = 20,
                           .stop_id = &stop,
                           .n_stop = 1,
                           .n_valid = TEST_VOCAB,
                           .parallel = 3,
                           .kv_dtype = ML_F16 };
    c.sampling.temperature = 1;
    c.sampling.seed = 5;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    make_items(many);
    make_items(one);
    assert_ok(ml_answer_all(m, &c, many, N, &err));
    int n_stopped = 0;
    for (int i = 0; i < N; i++) {
        c.sampling.seed = 5 + (uint64_t)i;
        assert_ok(ml_answer_all(m, &c, &one[i], 1, &err));
        assert_int_equal(many[i].answer.n, one[i].answer.n);
        assert_memory_equal(many[i].answer.id, one[i].answer.id, one[i].answer.n * sizeof(int32_t));
        assert_int_equal(many[i].finish, one[i].finish);
        bool stopped = many[i].answer.id[many[i].answer.n - 1] == stop;
        assert_int_equal(many[i].finish, stopped ? ML_FINISH_STOP : ML_FINISH_LENGTH);
        if (!stopped) assert_int_equal(many[i].answer.n, 20);
        n_stopped += stopped;
    }
    assert_in_range(n_stopped, 1, N - 1); /* both ends were seen */
    assert_ok(ml_answer_all(m, &c, many, 0, &err));
    one[0].prompt.n = 0;
    assert_fails(ml_answer_all(m, &c, one, 1, &err), ML_EINVAL, "prompt");
    free_items(many);
    free_items(one);
    ml_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_answers_do_not_depend_on_the_crowd) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
