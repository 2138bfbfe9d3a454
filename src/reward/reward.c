#include "reward/reward.h"

static const struct {
    const char *name;
    double right, wrong;
} kinds[ML_N_REWARD] = {
    [ML_REWARD_MATH] = { "math", 1, 0 },
    [ML_REWARD_DAPO] = { "dapo", 1, -1 },
};

const char *ml_reward_name(ml_reward_kind kind)
{
    return kinds[kind].name;
}

ml_status ml_reward_find(const char *name, ml_reward_kind *kind, ml_error *err)
{
    for (int i = 0; i < ML_N_REWARD; i++) {
        if (strcmp(name, kinds[i].name) != 0) continue;
        *kind = (ml_reward_kind)i;
        return ML_OK;
    }
    return ml_fail(err, ML_EINVAL, "there is no reward \"%s\"; there are math, dapo", name);
}

ml_status ml_reward_score(ml_reward_kind kind, ml_span response, ml_span label, double *reward, ml_error *err)
{
    ml_span given, expected;
    bool same = false;
    ML_TRY(ml_reward_read_label(label, &expected, err));
    if (ml_reward_find_answer(kind, response, &given)) ML_TRY(ml_reward_same_answer(given, expected, &same, err));
    *reward = same ? kinds[kind].right : kinds[kind].wrong;
    return ML_OK;
}
