#include "token/split.h"

#include "base/alloc.h"
#include "token/regex.h"
#include "token/scan.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

enum { MAX_STAGES = 16 };

typedef struct {
    char *regex; /* as files write it */
    pcre2_code *code;
    bool has_jit;
    ml_scan_fn scan; /* NULL: PCRE2 alone */
    const char *name;
} stage;

struct ml_pattern {
    stage stages[MAX_STAGES];
    size_t n_stages;
    bool use_scanner;
};

typedef struct {
    const char *name;
    const char *regex;
    const char *pcre; /* NULL: rewritten from regex */
    ml_scan_fn scan;
} named_pattern;

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define HEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define TAIL "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Moonlight's classes are [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]] and the same with \p{Ll} for the first two.
 * PCRE2 has no intersection, but the complement of one is a union: everything else, and Han. */
#define UPPER_SET "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define LOWER_SET "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define UPPER_PCRE "[^\\p{Han}\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}]"
#define LOWER_PCRE "[^\\p{Han}\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}]"
#define MOONLIGHT(upper, lower)                                                                                        \
    "[\\p{Han}]+|" HEAD upper "*" lower "+" CONTRACTION "?|" HEAD upper "+" lower "*" CONTRACTION "?|" TAIL

static const named_pattern named[] = {
    { "gpt2", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", NULL,
      ml_scan_gpt2 },
    { "gpt4", CONTRACTION "|" HEAD "\\p{L}+|" TAIL, NULL, ml_scan_gpt4 },
    { "moonlight", MOONLIGHT(UPPER_SET, LOWER_SET), MOONLIGHT(UPPER_PCRE, LOWER_PCRE), ml_scan_moonlight },
};

static const named_pattern *find_named(const char *pattern)
{
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (!strcmp(pattern, named[i].name) || !strcmp(pattern, named[i].regex)) return &named[i];
    }
    return NULL;
}

static ml_status compile(stage *s, const char *regex, ml_error *err)
{
    ml_chars pcre = { 0 };
    ml_status status = ml_regex_rewrite(regex, &pcre, err);
    if (status != ML_OK) {
        ml_chars_free(&pcre);
        return status;
    }
    int code = 0;
    size_t offset = 0;
    s->code = pcre2_compile((PCRE2_SPTR)pcre.data, pcre.n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code,
                            &offset, NULL);
    if (!s->code) {
        char message[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        status = ml_fail(err, ML_EINVAL, "split pattern \"%s\": %s, near offset %zu of \"%.*s\"", regex, message,
                         offset, (int)(pcre.n < 400 ? pcre.n : 400), pcre.data);
    } else {
        s->has_jit = pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE) == 0;
    }
    ml_chars_free(&pcre);
    return status;
}

ml_status ml_pattern_add(ml_pattern **split, const char *pattern, ml_error *err)
{
    ml_pattern *made = NULL;
    if (!*split) {
        made = ml_calloc(1, sizeof *made);
        if (!made) return ml_fail_memory(err, sizeof *made, "a split pattern");
        made->use_scanner = true;
    }
    ml_pattern *to = made ? made : *split;
    ml_status status = ML_OK;
    stage s = { 0 };
    const named_pattern *known = find_named(pattern);
    if (to->n_stages == MAX_STAGES) {
        status = ml_fail(err, ML_EINVAL, "pre_tokenizer: expected at most %d split patterns, found more", MAX_STAGES);
    } else {
        status = compile(&s, known ? (known->pcre ? known->pcre : known->regex) : pattern, err);
    }
    if (status == ML_OK) {
        s.regex = ml_strdup(known ? known->regex : pattern);
        if (!s.regex) status = ml_fail_memory(err, strlen(pattern), "a split pattern");
    }
    if (status != ML_OK) {
        pcre2_code_free(s.code);
        ml_free(made);
        return status;
    }
    if (known) {
        s.name = known->name;
        s.scan = known->scan;
    }
    to->stages[to->n_stages++] = s;
    *split = to;
    return ML_OK;
}

void ml_pattern_free(ml_pattern *split)
{
    if (!split) return;
    for (size_t i = 0; i < split->n_stages; i++) {
        pcre2_code_free(split->stages[i].code);
        ml_free(split->stages[i].regex);
    }
    ml_free(split);
}

size_t ml_pattern_stage_count(const ml_pattern *split)
{
    return split->n_stages;
}

const char *ml_pattern_stage_regex(const ml_pattern *split, size_t i)
{
    return split->stages[i].regex;
}

const char *ml_pattern_name(const ml_pattern *split)
{
    return split->n_stages == 1 ? split->stages[0].name : NULL;
}

void ml_pattern_use_scanner(ml_pattern *split, bool use)
{
    split->use_scanner = use;
}

bool ml_pattern_can_cut_lines(const ml_pattern *split)
{
    return ml_pattern_name(split) != NULL;
}

/* One stage at work on one piece of the stage before. */
typedef struct {
    const uint8_t *text; /* lookaround sees no further than this piece */
    size_t n, at;
    size_t base;        /* offset of `text` in the whole */
    size_t pending_end; /* end of a match that was found behind a gap; 0: none */
} walk;

struct ml_pattern_cursor {
    const ml_pattern *split;
    walk walks[MAX_STAGES];
    pcre2_match_data *match; /* made when first needed, like the JIT stack */
    pcre2_match_context *context;
    pcre2_jit_stack *jit_stack;
};

ml_status ml_pattern_cursor_make(const ml_pattern *split, ml_pattern_cursor **out, ml_error *err)
{
    ml_pattern_cursor *cursor = ml_calloc(1, sizeof *cursor);
    if (!cursor) return ml_fail_memory(err, sizeof *cursor, "a split cursor");
    cursor->split = split;
    *out = cursor;
    return ML_OK;
}

void ml_pattern_cursor_free(ml_pattern_cursor *cursor)
{
    if (!cursor) return;
    pcre2_match_data_free(cursor->match);
    pcre2_match_context_free(cursor->context);
    pcre2_jit_stack_free(cursor->jit_stack);
    ml_free(cursor);
}

void ml_pattern_cursor_start(ml_pattern_cursor *cursor, const uint8_t *text, size_t n_bytes)
{
    for (size_t i = 0; i < cursor->split->n_stages; i++) cursor->walks[i] = (walk){ 0 };
    cursor->walks[0] = (walk){ .text = text, .n = n_bytes };
}

static ml_status prepare_pcre(ml_pattern_cursor *cursor, ml_error *err)
{
    cursor->match = pcre2_match_data_create(1, NULL);
    cursor->context = pcre2_match_context_create(NULL);
    return cursor->match && cursor->context ? ML_OK : ml_fail_memory(err, 0, "matching a split pattern");
}

/* The JIT runs on 32 KiB of the machine stack until a match needs more. */
static bool grow_jit_stack(ml_pattern_cursor *cursor)
{
    enum { STACK_FIRST = 32 * 1024, STACK_MOST = 64 * 1024 * 1024 };
    if (cursor->jit_stack) return false;
    cursor->jit_stack = pcre2_jit_stack_create(STACK_FIRST, STACK_MOST, NULL);
    if (cursor->jit_stack) pcre2_jit_stack_assign(cursor->context, NULL, cursor->jit_stack);
    return cursor->jit_stack != NULL;
}

static int match_once(ml_pattern_cursor *cursor, const stage *s, const walk *w)
{
    if (!s->has_jit) {
        return pcre2_match(s->code, w->text, w->n, w->at, PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, cursor->match,
                           cursor->context);
    }
    return pcre2_jit_match(s->code, w->text, w->n, w->at, PCRE2_NOTEMPTY, cursor->match, cursor->context);
}

static ml_status match_pcre(ml_pattern_cursor *cursor, const stage *s, walk *w, size_t *end, ml_error *err)
{
    if (!cursor->match) ML_TRY(prepare_pcre(cursor, err));
    int found = match_once(cursor, s, w);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && grow_jit_stack(cursor)) found = match_once(cursor, s, w);
    if (found == PCRE2_ERROR_NOMATCH) {
        *end = w->n;
        return ML_OK;
    }
    if (found < 0) {
        char message[128] = "";
        pcre2_get_error_message(found, (PCRE2_UCHAR *)message, sizeof message);
        return ml_fail(err, ML_EINVAL, "split pattern \"%s\": %s at byte %zu of the text; simplify the pattern",
                       s->regex, message, w->base + w->at);
    }
    const size_t *span = pcre2_get_ovector_pointer(cursor->match);
    *end = span[0] > w->at ? span[0] : span[1];
    if (span[0] > w->at) w->pending_end = span[1];
    return ML_OK;
}

/* The end of the piece at w->at, w->at < w->n. */
static ml_status step(ml_pattern_cursor *cursor, size_t i, size_t *end, ml_error *err)
{
    const stage *s = &cursor->split->stages[i];
    walk *w = &cursor->walks[i];
    if (w->pending_end) {
        *end = w->pending_end;
        w->pending_end = 0;
    } else {
        if (s->scan && cursor->split->use_scanner) {
            *end = s->scan(w->text, w->at, w->n);
        } else {
            ML_TRY(match_pcre(cursor, s, w, end, err));
        }
    }
    w->at = *end;
    return ML_OK;
}

/* Give stage i its next piece, from the stages before; *more is false at the end of the text. */
static ml_status refill(ml_pattern_cursor *cursor, size_t i, bool *more, ml_error *err)
{
    walk *w = &cursor->walks[i];
    *more = w->at < w->n;
    if (*more || i == 0) return ML_OK;
    ML_TRY(refill(cursor, i - 1, more, err));
    if (!*more) return ML_OK;
    walk *before = &cursor->walks[i - 1];
    size_t begin = before->at, end;
    ML_TRY(step(cursor, i - 1, &end, err));
    *w = (walk){ .text = before->text + begin, .n = end - begin, .base = before->base + begin };
    return ML_OK;
}

/* One stage with a scanner: the loop that most text goes through. */
static size_t next_scanned(ml_pattern_cursor *cursor, size_t *ends, size_t capacity)
{
    walk *w = &cursor->walks[0];
    ml_scan_fn scan = cursor->split->stages[0].scan;
    size_t k = 0;
    while (k < capacity && w->at < w->n) ends[k++] = w->at = scan(w->text, w->at, w->n);
    return k;
}

ml_status ml_pattern_cursor_next(ml_pattern_cursor *cursor, size_t *ends, size_t capacity, size_t *n_ends,
                                 ml_error *err)
{
    const ml_pattern *split = cursor->split;
    if (split->n_stages == 1 && split->stages[0].scan && split->use_scanner) {
        *n_ends = next_scanned(cursor, ends, capacity);
        return ML_OK;
    }
    size_t last = split->n_stages - 1, k = 0;
    while (k < capacity) {
        bool more;
        ML_TRY(refill(cursor, last, &more, err));
        if (!more) break;
        size_t end;
        ML_TRY(step(cursor, last, &end, err));
        ends[k++] = cursor->walks[last].base + end;
    }
    *n_ends = k;
    return ML_OK;
}
