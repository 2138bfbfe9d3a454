#include "data/source.h"

#include "base/alloc.h"

#include <string.h>
#include <strings.h>

typedef struct {
    char *path;
    ml_map map;
    uint64_t n_before; /* bytes of the files before it */
    bool json;
} source_file;

struct ml_source {
    ml_source_rule rule;
    char *marker, *field;
    source_file *file;
    size_t n_file;
    uint64_t size, cut;
    /* the cursor */
    size_t file_id, offset;
    uint64_t line;
    uint64_t index;
};

/* ---- life ---- */

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), k = strlen(suffix);
    return n >= k && strcasecmp(path + n - k, suffix) == 0;
}

static ml_status copy(char **out, const char *text, ml_error *err)
{
    *out = ml_strdup(text);
    return *out ? ML_OK : ml_fail_memory(err, strlen(text) + 1, "an option");
}

static ml_status open_files(ml_source *s, const char *const *path, size_t n_path, ml_error *err)
{
    s->file = ml_calloc(n_path ? n_path : 1, sizeof *s->file);
    if (!s->file) return ml_fail_memory(err, n_path * sizeof *s->file, "the list of input files");
    for (size_t i = 0; i < n_path; i++) {
        source_file *f = &s->file[s->n_file++];
        ML_TRY(copy(&f->path, path[i], err));
        ML_TRY(ml_map_open(path[i], &f->map, err));
        f->json = has_suffix(path[i], ".jsonl") || has_suffix(path[i], ".ndjson");
        f->n_before = s->size;
        s->size += f->map.size;
    }
    return ML_OK;
}

ml_status ml_source_open(const char *const *path, size_t n_path, const ml_source_config *config, ml_source **out,
                         ml_error *err)
{
    *out = NULL;
    if (!config->marker[0] || strchr(config->marker, '\n')) {
        return ml_fail(err, ML_EINVAL, "the marker between documents must be one line of text that is not empty");
    }
    ml_source *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a source");
    ml_status status;
    s->rule = config->rule;
    s->line = 1;
    ML_TRY_GOTO(copy(&s->marker, config->marker, err));
    ML_TRY_GOTO(copy(&s->field, config->field, err));
    ML_TRY_GOTO(open_files(s, path, n_path, err));
    *out = s;
    s = NULL;
done:
    ml_source_free(s);
    return status;
}

void ml_source_free(ml_source *source)
{
    if (!source) return;
    for (size_t i = 0; i < source->n_file; i++) {
        ml_free(source->file[i].path);
        ml_map_close(&source->file[i].map);
    }
    ml_free(source->file);
    ml_free(source->marker);
    ml_free(source->field);
    ml_free(source);
}

uint64_t ml_source_size(const ml_source *source)
{
    return source->size;
}

uint64_t ml_source_at(const ml_source *source)
{
    return source->file_id < source->n_file ? source->file[source->file_id].n_before + source->offset : source->size;
}

uint64_t ml_source_position(const ml_source *source, const ml_span *span)
{
    return source->file[span->file].n_before + span->offset;
}

void ml_source_cut(ml_source *source, uint64_t at)
{
    source->cut = at;
}

const char *ml_source_path(const ml_source *source, uint32_t file)
{
    return source->file[file].path;
}

bool ml_source_is_json(const ml_source *source, uint32_t file)
{
    return source->file[file].json;
}

/* ---- cutting ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

bool ml_source_is_blank(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        if (!is_space(text[i])) return false;
    }
    return true;
}

/* End of the line that begins at `at`: the newline or the end of the file. */
static size_t line_end(const source_file *f, size_t at)
{
    const uint8_t *p = memchr(f->map.data + at, '\n', f->map.size - at);
    return p ? (size_t)(p - f->map.data) : f->map.size;
}

static bool ends_document(const ml_source *s, const char *line, size_t n)
{
    if (s->rule == ML_RULE_WHOLE) return false;
    while (n && is_space(line[n - 1])) n--;
    if (s->rule == ML_RULE_BLANK) return n == 0;
    return n == strlen(s->marker) && memcmp(line, s->marker, n) == 0;
}

/* End the piece [begin, *end) where the cut falls into it, and go on reading from there. */
static void cut_piece(ml_source *s, const source_file *f, size_t begin, uint64_t first_line, size_t *end)
{
    const char *text = (const char *)f->map.data;
    if (f->json || s->cut <= f->n_before + begin || s->cut >= f->n_before + *end) return;
    size_t at = (size_t)(s->cut - f->n_before);
    while (at < *end && !is_space(text[at])) at++;
    if (at == *end) return;
    s->offset = *end = at;
    s->line = first_line;
    for (size_t i = begin; i < at; i++) s->line += text[i] == '\n';
}

/* Advance over one piece: up to and over the line that ends it, or to the end of the file. */
static void next_piece(ml_source *s, const source_file *f, ml_span *span)
{
    size_t begin = s->offset, end = f->map.size;
    uint64_t first_line = s->line;
    while (s->offset < f->map.size) {
        size_t at = s->offset, stop = line_end(f, at);
        s->offset = stop < f->map.size ? stop + 1 : stop;
        s->line++;
        bool last = f->json || ends_document(s, (const char *)f->map.data + at, stop - at);
        if (!last) continue;
        end = f->json ? stop : at;
        break;
    }
    const char *text = (const char *)f->map.data;
    while (begin < end && is_space(text[begin])) first_line += text[begin++] == '\n';
    cut_piece(s, f, begin, first_line, &end);
    while (end > begin && is_space(text[end - 1])) end--;
    *span = (ml_span){ 0, first_line, (uint32_t)s->file_id, begin, end - begin };
}

bool ml_source_next(ml_source *source, ml_span *span)
{
    while (source->file_id < source->n_file) {
        const source_file *f = &source->file[source->file_id];
        while (source->offset < f->map.size) {
            next_piece(source, f, span);
            if (!span->n_bytes) continue;
            span->index = source->index++;
            return true;
        }
        source->file_id++;
        source->offset = 0;
        source->line = 1;
    }
    return false;
}

/* ---- text ---- */

ml_status ml_source_text(const ml_source *source, const ml_span *span, json_t **hold, const char **text,
                         size_t *n_bytes, ml_error *err)
{
    const source_file *f = &source->file[span->file];
    *hold = NULL;
    *text = (const char *)f->map.data + span->offset;
    *n_bytes = span->n_bytes;
    if (!f->json) return ML_OK;
    json_error_t problem;
    json_t *line = json_loadb(*text, *n_bytes, JSON_REJECT_DUPLICATES, &problem);
    ml_status status = ML_OK;
    if (!line) {
        return ml_fail(err, ML_EFORMAT, "%s:%llu: column %d: expected one JSON object, found: %s", f->path,
                       (unsigned long long)span->line, problem.column, problem.text);
    }
    json_t *value = json_object_get(line, source->field);
    if (!json_is_string(value)) {
        status = ml_fail(err, ML_EFORMAT,
                         "%s:%llu: expected an object with a text under \"%s\", found %s: name the key with --field",
                         f->path, (unsigned long long)span->line, source->field,
                         !json_is_object(line) ? "no object"
                         : value               ? "another type"
                                               : "no such key");
    } else {
        *text = json_string_value(value);
        *n_bytes = json_string_length(value);
        *hold = json_incref(value);
    }
    json_decref(line);
    return status;
}
