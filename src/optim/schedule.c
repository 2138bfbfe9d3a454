#include "optim/schedule.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
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

/* A whole number at *at, which moves behind it and the blanks that follow. */
static bool parse_number(const char **at, int64_t *value)
{
    char *end;
    *at += strspn(*at, " \t");
    if (**at < '0' || **at > '9') return false;
    errno = 0;
    *value = strtoll(*at, &end, 10);
    *at = end + strspn(end, " \t");
    return errno == 0;
}

ml_status ml_schedule_parse_ramp(const char *text, ml_batch_ramp *ramp, ml_error *err)
{
    const char *at = text;
    if (parse_number(&at, &ramp->step) && *at == ':') {
        at++;
        if (parse_number(&at, &ramp->factor) && *at == '\0') return ML_OK;
    }
    return ml_fail(err, ML_EINVAL, "\"%.40s\" is no STEP:N, such as 12000:2", text);
}

static ml_status check_rate(const char *key, double lr, ml_error *err)
{
    if (isfinite(lr) && lr >= 0.0) return ML_OK;
    return ml_fail(err, ML_EINVAL, "schedule: %s is %g, expected a number of at least 0", key, lr);
}

static ml_status check_ramp(const ml_schedule *s, ml_error *err)
{
    if (s->n_ramp < 0 || s->n_ramp > ML_MAX_RAMP)
        return ml_fail(err, ML_EINVAL, "schedule: the batch grows %d times, expected at most %d", s->n_ramp,
                       ML_MAX_RAMP);
    for (int i = 0; i < s->n_ramp; i++) {
        if (s->ramp[i].factor < 1 || s->ramp[i].factor > ML_MAX_RAMP_FACTOR)
            return ml_fail(err, ML_EINVAL, "schedule: the batch of step %lld is %lld times the first, expected 1 to %d",
                           (long long)s->ramp[i].step, (long long)s->ramp[i].factor, ML_MAX_RAMP_FACTOR);
        int64_t before = i > 0 ? s->ramp[i - 1].step : 0;
        if (s->ramp[i].step < before)
            return ml_fail(err, ML_EINVAL,
                           "schedule: the batch grows at step %lld, expected at least %lld: list the "
                           "steps in order",
                           (long long)s->ramp[i].step, (long long)before);
    }
    return ML_OK;
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
    if (s->bias_rest < 0 || s->bias_rest > s->steps)
        return ml_fail(err, ML_EINVAL,
                       "schedule: the router's bias rests in the last %lld steps, expected 0 to all %lld",
                       (long long)s->bias_rest, (long long)s->steps);
    ML_TRY(check_ramp(s, err));
    if (s->kind != ML_SCHEDULE_MOONLIGHT) return ML_OK;
    ML_TRY(check_rate("rewarm_lr", s->rewarm_lr, err));
    if (s->rewarm < 0 || s->rewarm > decay)
        return ml_fail(err, ML_EINVAL,
                       "schedule moonlight: rewarm is %lld, expected 0 to the %lld steps of the last stage",
                       (long long)s->rewarm, (long long)decay);
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

int64_t ml_schedule_get_factor(const ml_schedule *s, int64_t step)
{
    int64_t factor = 1;
    if (step >= s->steps) step = s->steps - 1;
    for (int i = 0; i < s->n_ramp && s->ramp[i].step <= step; i++) factor = s->ramp[i].factor;
    return factor;
}

int64_t ml_schedule_count_batches(const ml_schedule *s, int64_t step)
{
    int64_t n = 0, factor = 1, from = 0;
    for (int i = 0; i < s->n_ramp && s->ramp[i].step < step; i++) {
        n += factor * (s->ramp[i].step - from);
        from = s->ramp[i].step;
        factor = s->ramp[i].factor;
    }
    return n + factor * (step - from);
}

bool ml_schedule_moves_bias(const ml_schedule *s, int64_t step)
{
    return step < s->steps - s->bias_rest;
}

static double moonlight_lr(const ml_schedule *s, int64_t step)
{
    int64_t cosine_end = s->steps - s->decay, late = step - cosine_end;
    if (late < 0) {
        double first = (double)ml_schedule_count_batches(s, s->warmup);
        return half_cosine(s->lr, s->lr_min,
                           fraction((double)ml_schedule_count_batches(s, step) - first,
                                    (double)ml_schedule_count_batches(s, cosine_end) - first));
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
