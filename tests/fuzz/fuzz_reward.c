/* Any bytes as an answer (the first line) and a label (the rest): a reward of either kind, and a comparison that does
 * not contradict itself.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON -DMOONLIGHT_OPENMP=OFF
 *   cmake --build build/fuzz --target fuzz_reward
 *   build/fuzz/tests/fuzz_reward -max_total_time=60 -max_len=400 -timeout=1 -dict=tests/fuzz/reward.dict CORPUS \
 *       tests/fuzz/reward */
#include "reward/exact/exact.h"
#include "reward/normalise.h"
#include "reward/reward.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char memory[64 * 1024 + ML_EXACT_SCRATCH];

/* An expression is never different from itself, and two are not equal in one order and different in the other. */
static void check_exact(ml_span a, ml_span b)
{
    ml_scratch scratch = { .base = memory, .capacity = 64 * 1024 };
    ml_exact_space space = { .scratch = { .base = memory + 64 * 1024, .capacity = ML_EXACT_SCRATCH } };
    space.work_left = 3 * ML_EXACT_WORK;
    a = ml_normalise_words(&scratch, ml_normalise_notation(&scratch, a));
    b = ml_normalise_words(&scratch, ml_normalise_notation(&scratch, b));
    if (ml_exact_compare(&space, a, a) == ML_EXACT_DIFFERENT) abort();
    ml_exact_result forth = ml_exact_compare(&space, a, b), back = ml_exact_compare(&space, b, a);
    if (forth != back && forth != ML_EXACT_UNKNOWN && back != ML_EXACT_UNKNOWN) abort();
}

static void check_score(ml_reward_kind kind, ml_span response, ml_span label)
{
    ml_error err;
    ml_span answer;
    double reward;
    if (ml_reward_find_answer(kind, response, &answer) &&
        (answer.at < response.at || answer.at + answer.n > response.at + response.n))
        abort();
    ml_status status = ml_reward_score(kind, response, label, &reward, &err);
    if (status == ML_OK && reward != 1 && reward != (kind == ML_REWARD_DAPO ? -1 : 0)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ml_error err;
    bool same;
    ml_span text = { (const char *)data, size };
    const char *end = size ? memchr(text.at, '\n', size) : NULL;
    ml_span a = text, b = text;
    if (end) {
        a.n = (size_t)(end - text.at);
        b = ml_span_skip(text, a.n + 1);
    }
    for (int kind = 0; kind < ML_N_REWARD; kind++) check_score((ml_reward_kind)kind, text, b);
    if (ml_reward_same_answer(a, b, &same, &err) != ML_OK) abort();
    if (a.n < 1024 && b.n < 1024) check_exact(a, b);
    return 0;
}
