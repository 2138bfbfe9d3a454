/* Where the answer is in a response and in a label. */
#include "reward/reward.h"
#include "reward/tex.h"

enum { DAPO_CHARACTERS = 300 };

typedef enum { BOX_NONE, BOX_OPEN, BOX_FOUND } box_result;

/* The last \boxed{...}; spaces may stand before the brace. */
static box_result find_last_box(ml_span text, ml_span *inner)
{
    static const char name[] = "\\boxed";
    enum { LENGTH = sizeof name - 1 };
    for (size_t i = text.n < LENGTH ? 0 : text.n - LENGTH + 1; i-- > 0;) {
        if (text.at[i] != '\\' || memcmp(text.at + i, name, LENGTH) != 0) continue;
        ml_span rest = ml_span_skip(text, i + LENGTH), after;
        while (rest.n && ml_tex_is_space(rest.at[0])) rest = ml_span_skip(rest, 1);
        if (!rest.n || rest.at[0] != '{') continue;
        if (!ml_tex_group(rest, inner, &after)) return BOX_OPEN;
        *inner = ml_tex_trim(*inner);
        return BOX_FOUND;
    }
    return BOX_NONE;
}

/* The last n characters (not bytes: what continues a UTF-8 sequence does not count). */
static ml_span last_characters(ml_span text, int n)
{
    size_t i = text.n;
    while (i > 0 && n > 0) {
        i--;
        if (((unsigned char)text.at[i] & 0xc0) != 0x80) n--;
    }
    return ml_span_skip(text, i);
}

/* "Answer" with any case and spaces before its colon, at the beginning of s: bytes up to behind the colon, or 0. */
static size_t answer_mark(ml_span s)
{
    static const char word[] = "answer";
    size_t n = sizeof word - 1;
    if (s.n <= n) return 0;
    for (size_t i = 0; i < n; i++) {
        if ((s.at[i] | 0x20) != word[i]) return 0;
    }
    while (n < s.n && ml_tex_is_space(s.at[n])) n++;
    return n < s.n && s.at[n] == ':' ? n + 1 : 0;
}

/* Without the stars of Markdown around it: **Answer:** 42, Answer: **42**. */
static ml_span strip_stars(ml_span s)
{
    s = ml_tex_trim(s);
    while (s.n && s.at[0] == '*') s = ml_tex_trim(ml_span_skip(s, 1));
    while (s.n && s.at[s.n - 1] == '*') s = ml_tex_trim((ml_span){ s.at, s.n - 1 });
    return s;
}

static bool find_answer_line(ml_span response, ml_span *answer)
{
    ml_span text = last_characters(response, DAPO_CHARACTERS);
    for (size_t i = text.n; i-- > 0;) {
        size_t n = answer_mark(ml_span_skip(text, i));
        if (!n) continue;
        ml_span line = strip_stars(ml_span_skip(text, i + n));
        const char *end = line.n ? memchr(line.at, '\n', line.n) : NULL;
        if (end) line.n = (size_t)(end - line.at);
        line = strip_stars(line);
        box_result box = find_last_box(line, answer);
        if (box == BOX_NONE) *answer = line;
        return box != BOX_OPEN && answer->n > 0;
    }
    return false;
}

bool ml_reward_find_answer(ml_reward_kind kind, ml_span response, ml_span *answer)
{
    if (kind == ML_REWARD_DAPO) return find_answer_line(response, answer);
    return find_last_box(response, answer) == BOX_FOUND;
}

/* Behind the last "####", to the end of its line. */
static bool find_gsm8k(ml_span label, ml_span *answer)
{
    for (size_t i = label.n < 4 ? 0 : label.n - 3; i-- > 0;) {
        if (memcmp(label.at + i, "####", 4) != 0) continue;
        ml_span rest = ml_span_skip(label, i + 4);
        const char *end = rest.n ? memchr(rest.at, '\n', rest.n) : NULL;
        if (end) rest.n = (size_t)(end - rest.at);
        *answer = ml_tex_trim(rest);
        return true;
    }
    return false;
}

ml_status ml_reward_read_label(ml_span label, ml_span *answer, ml_error *err)
{
    box_result box = BOX_NONE;
    if (!find_gsm8k(label, answer)) {
        box = find_last_box(label, answer);
        if (box == BOX_NONE) *answer = ml_tex_trim(label);
    }
    if (box != BOX_OPEN && answer->n) return ML_OK;
    int shown = label.n < 80 ? (int)label.n : 80;
    return ml_fail(
        err, ML_EINVAL,
        "label \"%.*s%s\": expected an answer, \\boxed{answer} or \"#### answer\", found %s; correct the data", shown,
        shown ? label.at : "", label.n > 80 ? "..." : "",
        box == BOX_OPEN ? "a box without its closing brace" : "nothing");
}
