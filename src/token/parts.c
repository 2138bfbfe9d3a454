#include "token/parts.h"

#include "base/alloc.h"

#include <string.h>

/* The first place behind `at` where text[0..n) may be cut, n when there is none. */
static size_t find_cut(const char *text, size_t at, size_t n)
{
    for (; at + 1 < n; at++) {
        const char *line_feed = memchr(text + at, '\n', n - at - 1);
        if (!line_feed) return n;
        at = (size_t)(line_feed - text);
        if (at > 0 && ml_pattern_is_word(text[at - 1]) && ml_pattern_is_word(text[at + 1])) return at + 1;
    }
    return n;
}

ml_status ml_text_plan_parts(const ml_pattern *split, bool may_cut, const ml_text *docs, size_t n_docs,
                             size_t part_bytes, ml_text_part **parts, size_t *n_parts, ml_error *err)
{
    may_cut = may_cut && split && ml_pattern_can_cut_lines(split);
    *parts = NULL;
    *n_parts = 0;
    size_t capacity = 0;
    for (size_t doc = 0, at = 0; doc < n_docs;) {
        ml_text_part p = { .first = doc, .begin = at };
        size_t size = 0;
        do {
            size_t end = docs[doc].n_bytes;
            if (may_cut && size + (end - at) > part_bytes)
                end = find_cut(docs[doc].data, at + (part_bytes - size), end);
            p.last = doc;
            p.end = end;
            size += end - at;
            at = end;
            if (end < docs[doc].n_bytes) break;
            doc++;
            at = 0;
        } while (doc < n_docs && size < part_bytes);
        ml_status status = ml_grow((void **)parts, &capacity, *n_parts + 1, sizeof **parts, err);
        if (status != ML_OK) {
            ml_free(*parts);
            *parts = NULL;
            return status;
        }
        (*parts)[(*n_parts)++] = p;
    }
    return ML_OK;
}
