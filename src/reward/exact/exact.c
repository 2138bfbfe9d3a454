#include "reward/exact/exact.h"

#include "reward/exact/form.h"

ml_exact *ml_exact_begin(ml_scratch *scratch)
{
    ml_exact *x = ml_scratch_take(scratch, sizeof *x);
    if (!x) return NULL;
    x->scratch = scratch;
    x->work_left = ML_EXACT_WORK;
    x->stopped = false;
    x->depth = x->n_generator = 0;
    x->n_monomial = 1;
    x->monomials[0] = (ml_monomial){ 0 };
    memset(x->slots, 0, sizeof x->slots);
    return x;
}

void ml_exact_stop(ml_exact *x)
{
    x->stopped = true;
}

void ml_exact_charge(ml_exact *x, int64_t steps)
{
    x->work_left -= steps;
    if (x->work_left < 0) x->stopped = true;
}

void *ml_exact_take(ml_exact *x, size_t n_bytes)
{
    void *p = x->stopped ? NULL : ml_scratch_take(x->scratch, n_bytes);
    ml_exact_charge(x, 10);
    if (!p) x->stopped = true;
    return p;
}

/* left - right; just left where there is no right. */
static ml_form parse_side(ml_exact *x, const ml_span side[2])
{
    ml_form form = ml_form_parse(x, side[0]);
    return side[1].at ? ml_form_sub(x, form, ml_form_parse(x, side[1])) : form;
}

/* A comparison begins in the space; end gives back all that it took. */
typedef struct {
    ml_exact *x;
    size_t used;
    bool full;
    int64_t granted;
} session;

static session begin(ml_exact_space *space)
{
    session s = { .used = space->scratch.used, .full = space->scratch.full };
    s.granted = space->work_left < ML_EXACT_WORK ? space->work_left : ML_EXACT_WORK;
    s.x = s.granted > 0 ? ml_exact_begin(&space->scratch) : NULL;
    if (s.x) s.x->work_left = s.granted;
    return s;
}

static void end(ml_exact_space *space, const session *s)
{
    if (s->x) space->work_left -= s->granted - s->x->work_left;
    space->scratch.used = s->used; /* what ran out was this comparison's memory, not the caller's */
    space->scratch.full = s->full;
}

static ml_exact_result compare(ml_exact_space *space, const ml_span a[2], const ml_span b[2])
{
    session s = begin(space);
    ml_exact *x = s.x;
    ml_exact_result result = ML_EXACT_UNKNOWN;
    if (x) {
        ml_form p = parse_side(x, a), q = x->stopped ? p : parse_side(x, b);
        bool equal = !x->stopped && ml_form_equal(x, p, q);
        if (!equal && !x->stopped && a[1].at) equal = ml_form_equal(x, p, ml_form_neg(x, q));
        if (!x->stopped) result = equal ? ML_EXACT_EQUAL : ML_EXACT_DIFFERENT;
    }
    end(space, &s);
    return result;
}

ml_exact_result ml_exact_compare(ml_exact_space *space, ml_span a, ml_span b)
{
    return compare(space, (ml_span[2]){ a }, (ml_span[2]){ b });
}

ml_exact_result ml_exact_compare_equations(ml_exact_space *space, ml_span left_a, ml_span right_a, ml_span left_b,
                                           ml_span right_b)
{
    return compare(space, (ml_span[2]){ left_a, right_a }, (ml_span[2]){ left_b, right_b });
}

bool ml_exact_is_reduced(ml_exact_space *space, ml_span numerator, ml_span denominator)
{
    session s = begin(space);
    bool reduced = true;
    if (s.x) {
        ml_nat num = ml_nat_from_digits(s.x, numerator), den = ml_nat_from_digits(s.x, denominator);
        reduced = !ml_nat_is_one(den) && ml_nat_is_one(ml_nat_gcd(s.x, num, den));
        reduced = reduced || s.x->stopped;
    }
    end(space, &s);
    return reduced;
}
