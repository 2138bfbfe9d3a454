/* Text to form, by recursive descent:
 *
 *   sum       product (+ product | - product)*
 *   product   signed ((* | / | nothing) signed)*           nothing: only before what cannot be a second number
 *   signed    (+ | -) signed | power
 *   power     postfix (^ exponent)?
 *   postfix   primary (! | % | degree)*
 *   primary   number | mixed number | word | command | ( sum ) | [ sum ] | { sum } | | sum |
 *
 * What could be read in two ways stops the evaluation rather than being guessed: "2 3", "x2", f(x), words. */
#include "reward/exact/parser.h"

enum { MAX_DEPTH = 40 };

static ml_form parse_sum(ml_parser *p);
static ml_form parse_power(ml_parser *p);
static ml_form parse_primary(ml_parser *p, bool may_mix);

static bool enter(ml_parser *p)
{
    if (++p->depth <= MAX_DEPTH && !p->x->stopped) return true;
    p->depth--;
    ml_exact_stop(p->x);
    return false;
}

/* ---- names ---- */

static ml_form constant(ml_parser *p, ml_generator_kind kind)
{
    ml_generator g = { .kind = kind };
    return p->x->stopped ? stop(p) : ml_form_generator(p->x, &g);
}

/* An index behind a name: _1, _{10}, _n.  Letters and digits only. */
static ml_span take_index(ml_parser *p)
{
    ml_span index = { 0 };
    if (!accept(p, '_')) return index;
    bool braced = accept(p, '{');
    index = p->rest;
    size_t n = 0;
    while (n < p->rest.n && (ml_tex_is_digit(p->rest.at[n]) || ml_tex_is_letter(p->rest.at[n])) && (braced || n == 0))
        n++;
    index.n = n;
    advance(p, n);
    if (!n || (braced && !accept(p, '}'))) ml_exact_stop(p->x);
    return index;
}

/* The variable `base`, whose index follows. */
static ml_form parse_symbol(ml_parser *p, ml_span base)
{
    ml_span index = take_index(p);
    size_t n_primes = 0;
    while (accept(p, '\'')) n_primes++;
    size_t n = base.n + 1 + index.n + n_primes;
    char *name = ml_exact_take(p->x, n);
    if (!name) return stop(p);
    memcpy(name, base.at, base.n);
    name[base.n] = '_';
    if (index.n) memcpy(name + base.n + 1, index.at, index.n);
    memset(name + base.n + 1 + index.n, '\'', n_primes);
    ml_generator g = { .kind = ML_GEN_SYMBOL, .name = { name, n } };
    return ml_form_generator(p->x, &g);
}

typedef enum { NAME_NONE, NAME_FUNCTION, NAME_PI, NAME_SQRT, NAME_FRAC, NAME_BINOM, NAME_FLOOR, NAME_CEIL } name_kind;

/* Names that mean something, as commands and (plain) as words. */
static const struct {
    const char *name;
    name_kind kind;
    ml_function function;
    bool plain;
} names[] = {
    { "sin", NAME_FUNCTION, ML_FUNCTION_SIN, true },       { "cos", NAME_FUNCTION, ML_FUNCTION_COS, true },
    { "tan", NAME_FUNCTION, ML_FUNCTION_TAN, true },       { "cot", NAME_FUNCTION, ML_FUNCTION_COT, true },
    { "sec", NAME_FUNCTION, ML_FUNCTION_SEC, true },       { "csc", NAME_FUNCTION, ML_FUNCTION_CSC, true },
    { "arcsin", NAME_FUNCTION, ML_FUNCTION_ARCSIN, true }, { "arccos", NAME_FUNCTION, ML_FUNCTION_ARCCOS, true },
    { "arctan", NAME_FUNCTION, ML_FUNCTION_ARCTAN, true }, { "ln", NAME_FUNCTION, ML_FUNCTION_LN, true },
    { "log", NAME_FUNCTION, ML_FUNCTION_LOG, true },       { "exp", NAME_FUNCTION, ML_FUNCTION_EXP, true },
    { "abs", NAME_FUNCTION, ML_FUNCTION_ABS, true },       { "pi", NAME_PI, ML_FUNCTION_NONE, true },
    { "sqrt", NAME_SQRT, ML_FUNCTION_NONE, true },         { "frac", NAME_FRAC, ML_FUNCTION_NONE, false },
    { "dfrac", NAME_FRAC, ML_FUNCTION_NONE, false },       { "tfrac", NAME_FRAC, ML_FUNCTION_NONE, false },
    { "binom", NAME_BINOM, ML_FUNCTION_NONE, false },      { "lfloor", NAME_FLOOR, ML_FUNCTION_NONE, false },
    { "lceil", NAME_CEIL, ML_FUNCTION_NONE, false },
};

enum { N_NAMES = sizeof names / sizeof *names };

static int find_name(ml_span name, bool plain)
{
    for (int i = 0; i < N_NAMES; i++) {
        if ((names[i].plain || !plain) && ml_span_is(name, names[i].name)) return i;
    }
    return -1;
}

static bool is_greek(ml_span name)
{
    static const char *const greek[] = {
        "alpha",    "beta",    "gamma", "delta",  "epsilon", "varepsilon", "zeta",  "eta",   "theta",
        "vartheta", "iota",    "kappa", "lambda", "mu",      "nu",         "xi",    "rho",   "sigma",
        "tau",      "upsilon", "phi",   "varphi", "chi",     "psi",        "omega", "Gamma", "Delta",
        "Theta",    "Lambda",  "Xi",    "Sigma",  "Upsilon", "Phi",        "Psi",   "Omega", "ell",
    };
    for (size_t i = 0; i < sizeof greek / sizeof *greek; i++) {
        if (ml_span_is(name, greek[i])) return true;
    }
    return false;
}

/* ---- arguments ---- */

static char closing_of(char open)
{
    return open == '(' ? ')' : open == '[' ? ']' : open == '{' ? '}' : 0;
}

/* A group in any bracket, which comes next. */
static ml_form parse_group(ml_parser *p)
{
    char close = closing_of(peek(p));
    advance(p, 1);
    int in_bars = p->in_bars;
    p->in_bars = 0;
    ml_form inner = parse_sum(p);
    p->in_bars = in_bars;
    skip_spaces(p);
    return accept(p, close) ? inner : stop(p);
}

static ml_form parse_bars(ml_parser *p)
{
    advance(p, 1);
    p->in_bars++;
    ml_form inner = parse_sum(p);
    p->in_bars--;
    skip_spaces(p);
    if (!accept(p, '|') || p->x->stopped) return stop(p);
    return ml_form_apply(p->x, ML_FUNCTION_ABS, inner);
}

static ml_form parse_rounded(ml_parser *p, ml_function f, const char *close)
{
    ml_form inner = parse_sum(p);
    skip_spaces(p);
    if (!accept_command(p, close) || p->x->stopped) return stop(p);
    return ml_form_apply(p->x, f, inner);
}

static ml_form form_of_nat(ml_exact *x, ml_nat n)
{
    return ml_form_of(x, ml_poly_term(x, 0, ml_rational_make(x, n, ml_nat_from(x, 1), false)));
}

/* What \frac, \sqrt and ^ take in TeX: a group, one digit, one letter, a command. */
static ml_form parse_argument(ml_parser *p)
{
    skip_spaces(p);
    if (ml_tex_is_digit(peek(p))) {
        ml_span digit = { p->rest.at, 1 };
        advance(p, 1);
        return form_of_nat(p->x, ml_nat_from_digits(p->x, digit));
    }
    ml_span run = { p->rest.at, ml_tex_letters(p->rest) };
    if (run.n && find_name(run, true) < 0 && run.at >= p->run_end) p->run_end = run.at + 1;
    return parse_primary(p, false);
}

static ml_form parse_sqrt(ml_parser *p)
{
    int64_t index = 2;
    skip_spaces(p);
    if (peek(p) == '[') {
        ml_rational r;
        if (!ml_form_to_rational(parse_group(p), &r) || !ml_rational_to_int(r, &index)) return stop(p);
    }
    ml_form arg = parse_argument(p);
    return p->x->stopped ? stop(p) : ml_form_root(p->x, arg, index);
}

static ml_form parse_pair(ml_parser *p, bool is_binomial)
{
    ml_form top = parse_argument(p), bottom = p->x->stopped ? top : parse_argument(p);
    if (p->x->stopped) return stop(p);
    return is_binomial ? ml_form_binomial(p->x, top, bottom) : ml_form_div(p->x, top, bottom);
}

static bool starts_factor(const ml_parser *p)
{
    char c = peek(p);
    if (ml_tex_is_letter(c) || ml_tex_is_digit(c) || closing_of(c)) return true;
    if (c == '|') return p->in_bars == 0;
    ml_span command = peek_command(p);
    return command.n && (find_name(command, false) >= 0 || is_greek(command));
}

static bool is_function_next(const ml_parser *p)
{
    ml_span command = peek_command(p);
    bool plain = !command.n;
    if (plain) {
        command = p->rest;
        command.n = p->rest.at < p->run_end ? 0 : ml_tex_letters(p->rest);
    }
    int i = find_name(command, plain);
    return i >= 0 && names[i].kind == NAME_FUNCTION;
}

/* What a function applies to: a group, or the factors up to the next sign or function, as in sin 2 pi x. */
static ml_form parse_function_argument(ml_parser *p)
{
    skip_spaces(p);
    if (closing_of(peek(p))) {
        ml_form arg = parse_group(p);
        skip_spaces(p);
        return peek(p) == '^' ? stop(p) : arg; /* sin(x)^2: of which? */
    }
    if (!starts_factor(p)) return stop(p);
    ml_form arg = parse_power(p);
    for (skip_spaces(p); starts_factor(p) && !is_function_next(p) && !p->x->stopped; skip_spaces(p)) {
        if (ml_tex_is_digit(peek(p))) return stop(p);
        arg = ml_form_mul(p->x, arg, parse_power(p));
    }
    return arg;
}

/* f^2 x, log_2 x, f(x) */
static ml_form parse_function(ml_parser *p, ml_function f)
{
    ml_exact *x = p->x;
    ml_form base = { 0 };
    bool has_base = f == ML_FUNCTION_LOG && accept(p, '_');
    if (has_base) base = parse_argument(p);
    int64_t power = 1;
    ml_rational r;
    skip_spaces(p);
    if (accept(p, '^')) {
        if (!ml_form_to_rational(parse_argument(p), &r) || !ml_rational_to_int(r, &power) || power < 1)
            return stop(p); /* f^-1 is the inverse function */
    }
    ml_form arg = x->stopped ? stop(p) : parse_function_argument(p);
    if (x->stopped) return stop(p);
    ml_form value = has_base ? ml_form_log(x, base, arg) : ml_form_apply(x, f, arg);
    return x->stopped ? stop(p) : ml_form_pow_int(x, value, power);
}

static ml_form parse_named(ml_parser *p, int i)
{
    switch (names[i].kind) {
    case NAME_FUNCTION: return parse_function(p, names[i].function);
    case NAME_PI: return constant(p, ML_GEN_PI);
    case NAME_SQRT: return parse_sqrt(p);
    case NAME_FLOOR: return parse_rounded(p, ML_FUNCTION_FLOOR, "rfloor");
    case NAME_CEIL: return parse_rounded(p, ML_FUNCTION_CEIL, "rceil");
    default: return parse_pair(p, names[i].kind == NAME_BINOM);
    }
}

/* A run of letters: a name as a whole, else up to three variables side by side; more is a word, which has no value. */
static ml_form parse_word(ml_parser *p)
{
    ml_span run = p->rest;
    run.n = ml_tex_letters(run);
    if (run.at >= p->run_end) {
        int i = find_name(run, true);
        if (i >= 0) {
            advance(p, run.n);
            return parse_named(p, i);
        }
        if (run.n > 3) return stop(p);
        p->run_end = run.at + run.n;
    }
    ml_span letter = { run.at, 1 };
    char c = letter.at[0], second = peek_second(p);
    if (second == '(' && (c == 'f' || c == 'g' || c == 'h')) return stop(p); /* a function's value */
    advance(p, 1);
    if (second != '_' && c == 'e') return constant(p, ML_GEN_E);
    if (second != '_' && c == 'i') return constant(p, ML_GEN_I);
    return parse_symbol(p, letter);
}

static ml_form parse_command(ml_parser *p)
{
    ml_span command = peek_command(p);
    int i = find_name(command, false);
    if (i < 0 && !is_greek(command)) return stop(p);
    advance(p, 1 + command.n);
    return i >= 0 ? parse_named(p, i) : parse_symbol(p, command);
}

static ml_form parse_primary(ml_parser *p, bool may_mix)
{
    char c = peek(p);
    if (ml_tex_is_digit(c) || c == '.') return ml_form_parse_number(p, may_mix);
    if (ml_tex_is_letter(c)) return parse_word(p);
    if (c == '\\') return parse_command(p);
    if (c == '|' && !p->in_bars) return parse_bars(p);
    return closing_of(c) ? parse_group(p) : stop(p);
}

/* ---- operators ---- */

static ml_form parse_postfix(ml_parser *p)
{
    ml_exact *x = p->x;
    skip_spaces(p);
    ml_form a = parse_primary(p, true);
    while (!x->stopped) {
        skip_spaces(p);
        if (peek(p) == '!') {
            advance(p, 1);
            if (peek(p) == '!') return stop(p); /* double factorial */
            a = ml_form_factorial(x, a);
        } else if (peek(p) == '%') {
            advance(p, 1);
            a = ml_form_div(x, a, ml_form_from(x, 100));
        } else if (accept_command(p, "degree")) {
            a = ml_form_mul(x, a, ml_form_div(x, constant(p, ML_GEN_PI), ml_form_from(x, 180)));
        } else {
            return a;
        }
    }
    return stop(p);
}

/* Behind ^: the whole number in x^12, since nobody means x^1 2; signs; another power (a^b^c is a^(b^c)). */
static ml_form parse_exponent(ml_parser *p)
{
    if (!enter(p)) return stop(p);
    skip_spaces(p);
    bool negative = false;
    if (peek(p) == '-' || peek(p) == '+') {
        negative = peek(p) == '-';
        advance(p, 1);
        skip_spaces(p);
    }
    ml_form a = ml_tex_is_digit(peek(p)) ? ml_form_parse_number(p, false) : parse_argument(p);
    skip_spaces(p);
    if (!p->x->stopped && accept(p, '^')) a = ml_form_pow(p->x, a, parse_exponent(p));
    p->depth--;
    return p->x->stopped ? stop(p) : negative ? ml_form_neg(p->x, a) : a;
}

static ml_form parse_power(ml_parser *p)
{
    ml_form a = parse_postfix(p);
    skip_spaces(p);
    bool power = peek(p) == '^', stars = peek(p) == '*' && peek_second(p) == '*';
    if (p->x->stopped || (!power && !stars)) return a;
    advance(p, power ? 1 : 2);
    ml_form exponent = parse_exponent(p);
    return p->x->stopped ? stop(p) : ml_form_pow(p->x, a, exponent);
}

static ml_form parse_signed(ml_parser *p)
{
    skip_spaces(p);
    char c = peek(p);
    if (c != '-' && c != '+') return parse_power(p);
    if (!enter(p)) return stop(p);
    advance(p, 1);
    ml_form a = parse_signed(p);
    p->depth--;
    return p->x->stopped ? stop(p) : c == '-' ? ml_form_neg(p->x, a) : a;
}

static ml_form parse_product(ml_parser *p)
{
    ml_form a = parse_signed(p);
    while (!p->x->stopped) {
        skip_spaces(p);
        if (accept(p, '*') || accept_command(p, "cdot") || accept_command(p, "times")) {
            ml_form b = parse_signed(p);
            if (!p->x->stopped) a = ml_form_mul(p->x, a, b);
        } else if (accept(p, '/') || accept_command(p, "div")) {
            ml_form b = parse_signed(p);
            if (!p->x->stopped) a = ml_form_div(p->x, a, b);
        } else if (starts_factor(p) && !ml_tex_is_digit(peek(p))) {
            ml_form b = parse_power(p);
            if (!p->x->stopped) a = ml_form_mul(p->x, a, b);
        } else {
            return a;
        }
    }
    return stop(p);
}

static ml_form parse_sum(ml_parser *p)
{
    if (!enter(p)) return stop(p);
    ml_form a = parse_product(p);
    while (!p->x->stopped) {
        skip_spaces(p);
        bool minus = peek(p) == '-';
        if (!minus && peek(p) != '+') break;
        advance(p, 1);
        ml_form b = parse_product(p);
        if (!p->x->stopped) a = minus ? ml_form_sub(p->x, a, b) : ml_form_add(p->x, a, b);
    }
    p->depth--;
    return p->x->stopped ? stop(p) : a;
}

ml_form ml_form_parse(ml_exact *x, ml_span text)
{
    ml_parser p = { .x = x, .rest = text };
    ml_form form = parse_sum(&p);
    skip_spaces(&p);
    return p.rest.n ? stop(&p) : form;
}
