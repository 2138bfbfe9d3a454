#include "serve/run_index.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BATCH = 2000, MARK_BYTES = 256, SETTLE_SECONDS = 2 };

/* ---- which file it is ---- */

/* Of the bytes before `place`. */
static uint64_t mark_of(FILE *file, int64_t place)
{
    unsigned char bytes[MARK_BYTES];
    size_t n = place < MARK_BYTES ? (size_t)place : MARK_BYTES;
    if (fseeko(file, place - (int64_t)n, SEEK_SET) != 0) return 0;
    return ml_hash_bytes(bytes, fread(bytes, 1, n, file));
}

static void identify(FILE *file, const struct stat *about, ml_store_file *f)
{
    snprintf(f->identity, sizeof f->identity, "%llx-%llx-%llx", (unsigned long long)about->st_dev,
             (unsigned long long)about->st_ino, (unsigned long long)mark_of(file, f->n_byte));
}

/* Whether what is known is the beginning of this file. */
static bool is_known(FILE *file, const struct stat *about, const ml_store_file *known)
{
    ml_store_file now = { .n_byte = known->n_byte };
    if (known->n_byte == 0 || about->st_size < known->n_byte) return false;
    identify(file, about, &now);
    return !strcmp(now.identity, known->identity);
}

/* ---- lines ---- */

static json_t *metric_of(const json_t *line, int64_t place)
{
    json_int_t step = json_integer_value(json_object_get(line, "step"));
    return json_pack("[I, i, I]", step, json_object_get(line, "val_loss") != NULL, (json_int_t)place);
}

/* The first of some keys that a record has with a value of one kind. */
static json_t *first_of(const json_t *record, const char *const keys[], bool (*is_wanted)(const json_t *))
{
    for (size_t i = 0; keys[i]; i++) {
        json_t *v = json_object_get(record, keys[i]);
        if (v && is_wanted(v)) return v;
    }
    return NULL;
}

static bool is_text(const json_t *v)
{
    return json_is_string(v);
}

static bool is_grade(const json_t *v)
{
    return json_is_number(v) || json_is_boolean(v);
}

/* A text to be listed and searched: models write U+0000, too, which the store's texts end at, so U+FFFD stands for it.
 */
static json_t *text_of(const json_t *record, const char *const keys[])
{
    static const char sign[] = "\xef\xbf\xbd";
    const json_t *found = first_of(record, keys, is_text);
    const char *text = found ? json_string_value(found) : "";
    size_t n = found ? json_string_length(found) : 0, size = 0;
    char *out = ml_alloc(3 * n + 1);
    if (!out) return json_string("");
    for (size_t i = 0; i < n; i++) {
        size_t k = text[i] ? 1 : 3;
        memcpy(out + size, text[i] ? text + i : sign, k);
        size += k;
    }
    json_t *clean = json_stringn(out, size);
    ml_free(out);
    return clean;
}

/* What stages and `moonlight eval --out` call prompt, answer and grade; the record itself is kept as it is. */
static json_t *rollout_of(const json_t *record)
{
    static const char *const prompts[] = { "prompt", "question", "problem", NULL };
    static const char *const texts[] = { "text", "completion", "response", "answer", NULL };
    static const char *const grades[] = { "reward", "score", "right", "correct", "satisfied", NULL };
    const json_t *grade = first_of(record, grades, is_grade);
    json_t *reward = json_is_number(grade)    ? json_real(json_number_value(grade))
                     : json_is_boolean(grade) ? json_real(json_is_true(grade))
                                              : json_null();
    json_t *step = json_object_get(record, "step");
    char *whole = json_dumps(record, JSON_COMPACT);
    json_t *out = json_pack("[O, o, o, o, s]", json_is_integer(step) ? step : json_null(), text_of(record, prompts),
                            text_of(record, texts), reward, whole ? whole : "{}");
    free(whole);
    return out;
}

/* The next complete lines behind `from`, BATCH at most. */
static json_t *read_batch(FILE *file, ml_store_lines kind, const ml_store_file *from, ml_store_file *to)
{
    json_t *lines = json_array();
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    *to = *from;
    if (fseeko(file, from->n_byte, SEEK_SET) != 0) return lines;
    while (json_array_size(lines) < BATCH && (n = getline(&line, &capacity, file)) > 0 && line[n - 1] == '\n') {
        json_t *v = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        json_t *entry = !json_is_object(v) ? NULL : kind == ML_STORE_METRICS ? metric_of(v, to->n_byte) : rollout_of(v);
        json_array_append_new(lines, entry ? entry : json_null());
        json_decref(v);
        to->n_byte += n;
        to->n_line++;
    }
    free(line);
    return lines;
}

/* One batch; *more: there may be another. */
static ml_status take_batch(ml_store *store, const char *run, const char *name, FILE *file, ml_store_lines kind,
                            bool *more, ml_error *err)
{
    struct stat about;
    ml_store_file known, from = { 0 }, to;
    *more = false;
    ML_TRY(ml_store_get_file(store, run, name, &known, err));
    if (fstat(fileno(file), &about) != 0) return ML_OK;
    bool goes_on = is_known(file, &about, &known);
    if (goes_on) from = known;
    json_t *lines = read_batch(file, kind, &from, &to);
    ml_status status = ML_OK;
    *more = json_array_size(lines) == BATCH;
    if (json_array_size(lines) || (known.n_byte && !goes_on)) {
        identify(file, &about, &to);
        status = ml_store_add_lines(store, run, name, kind, &from, &to, lines, err);
    }
    json_decref(lines);
    return status;
}

ml_status ml_run_index_update(ml_store *store, const char *run, const char *folder, const char *name,
                              ml_store_lines kind, ml_store_file *out, ml_error *err)
{
    char path[ML_PATH_MAX];
    bool more = true;
    ML_TRY(ml_path_join(path, folder, name, err));
    FILE *file = fopen(path, "re");
    if (!file) {
        ML_TRY(ml_store_get_file(store, run, name, out, err));
        bool is_there = out->key != 0;
        *out = (ml_store_file){ 0 };
        return is_there ? ml_store_drop_file(store, run, name, err) : ML_OK;
    }
    ml_status status = ML_OK;
    while (status == ML_OK && more) status = take_batch(store, run, name, file, kind, &more, err);
    fclose(file);
    return status == ML_OK ? ml_store_get_file(store, run, name, out, err) : status;
}

/* ---- stamps ---- */

static double seconds_of(const struct stat *about)
{
    return (double)about->st_mtim.tv_sec + 1e-9 * (double)about->st_mtim.tv_nsec;
}

void ml_run_index_stamp(const char *folder, char *out, size_t size)
{
    char path[ML_PATH_MAX];
    struct stat whole, log;
    ml_error ignored;
    out[0] = 0;
    if (ml_path_join(path, folder, "log.jsonl", &ignored) != ML_OK) return;
    if (stat(folder, &whole) != 0 || stat(path, &log) != 0) return;
    double now = ml_clock_unix_seconds();
    if (now - seconds_of(&whole) < SETTLE_SECONDS || now - seconds_of(&log) < SETTLE_SECONDS) return;
    snprintf(out, size, "%llx-%llx-%lld.%09ld %llx-%lld-%lld.%09ld", (unsigned long long)whole.st_dev,
             (unsigned long long)whole.st_ino, (long long)whole.st_mtim.tv_sec, whole.st_mtim.tv_nsec,
             (unsigned long long)log.st_ino, (long long)log.st_size, (long long)log.st_mtim.tv_sec,
             log.st_mtim.tv_nsec);
}
