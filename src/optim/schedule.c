#include "optim/schedule.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const char *const KIND_NAME[] = { "constant", "linear", "cosine", "wsd", "moonlight" };
enum { N_KIND = sizeof KIND_NAME / sizeof KIND_NAME[0] };

ml_status ml_schedule_parse_kind(const char *name, ml_schedule_kind *kind, ml_error *err)
{
    for (int i = 0; i < N_KIND; i++) {
        if (strcmp(name, KIND_NAME[i]) != 0) continue;
        *kind = (ml_schedule_kind)i;
        return ML_OK;
    }
    return ml_fail(err, ML_EINVAL, "\"%.40s\" is no schedule; expected constant, linear, cosine, wsd or moonlight",
                   name);
}

static ml_status check_rate(const char *key, double lr, ml_error *err)
{
    if (isfinite(lr) && lr >= 0.0) return ML_OK;
    return ml_fail(err, ML_EINVAL, "schedule: %s is %g, expected a number of at least 0", key, lr);
}

ml_status ml_schedule_check(const ml_schedule *s, ml_error *err)
{
    bool last_stage = s->kind == ML_SCHEDULE_WSD || s->kind == ML_SCHEDULE_MOONLIGHT;
    int64_t decay = last_stage ? s->decay : 0;
    ML_TRY(check_rate("lr", s->lr, err));
    ML_TRY(check_rate("lr_min", s->lr_min, err));
    if (s->warmup < 0 || s->steps < 0 || decay < 0 || s->warmup > s->steps || decay > s->steps - s->warmup)
        return ml_fail(err, ML_EINVAL,
                       "schedule %s: %lld steps of warmup and %lld of the last stage do not fit into %lld steps",
                       KIND_NAME[s->kind], (long long)s->warmup, (long long)decay, (long long)s->steps);
    if (s->kind != ML_SCHEDULE_MOONLIGHT) return ML_OK;
    ML_TRY(check_rate("rewarm_lr", s->rewarm_lr, err));
    if (s->rewarm < 0 || s->rewarm > decay)
        return ml_fail(err, ML_EINVAL,
                       "schedule moonlight: rewarm is %lld, expected 0 to the %lld steps of the last stage",
                       (long long)s->rewarm, (long long)decay);
    if (s->ramp_step < 0 || !isfinite(s->ramp_factor) || s->ramp_factor <= 0.0)
        return ml_fail(err, ML_EINVAL,
                       "schedule moonlight: ramp_step is %lld and ramp_factor %g, expected at least 0 and above 0",
                       (long long)s->ramp_step, s->ramp_factor);
    return ML_OK;
}

/* x of n, held within [0, 1]; an empty stretch is over at once. */
static double fraction(double x, double n)
{
    if (n <= 0.0 || x >= n) return 1.0;
    return x <= 0.0 ? 0.0 : x / n;
}

static double mix(double from, double to, double p)
{
    return from + (to - from) * p;
}

static double half_cosine(double from, double to, double p)
{
    static const double PI = 3.14159265358979323846;
    return to + (from - to) * 0.5 * (1.0 + cos(PI * p));
}

/* Tokens seen before `step`, in units of the first batch. */
static double count_tokens(const ml_schedule *s, int64_t step)
{
    int64_t ramped = step > s->ramp_step ? step - s->ramp_step : 0;
    return (double)(step - ramped) + s->ramp_factor * (double)ramped;
}

static double moonlight_lr(const ml_schedule *s, int64_t step)
{
    int64_t cosine_end = s->steps - s->decay, late = step - cosine_end;
    if (late < 0) {
        double first = count_tokens(s, s->warmup);
        return half_cosine(s->lr, s->lr_min,
                           fraction(count_tokens(s, step) - first, count_tokens(s, cosine_end) - first));
    }
    if (late < s->rewarm) return mix(s->lr_min, s->rewarm_lr, (double)(late + 1) / (double)s->rewarm);
    return mix(s->rewarm_lr, 0.0, fraction((double)(late - s->rewarm), (double)(s->decay - s->rewarm)));
}

double ml_schedule_get_lr(const ml_schedule *s, int64_t step)
{
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    double p = fraction((double)(step - s->warmup), (double)(s->steps - s->warmup));
    switch (s->kind) {
    case ML_SCHEDULE_CONSTANT: return s->lr;
    case ML_SCHEDULE_LINEAR: return mix(s->lr, s->lr_min, p);
    case ML_SCHEDULE_COSINE: return half_cosine(s->lr, s->lr_min, p);
    case ML_SCHEDULE_WSD:
        return mix(s->lr, s->lr_min, fraction((double)(step - s->steps + s->decay), (double)s->decay));
    case ML_SCHEDULE_MOONLIGHT: return moonlight_lr(s, step);
    }
    return s->lr;
}
